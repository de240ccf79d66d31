"""Text that any terminal takes, and names that Markdown takes for nothing else."""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """A text that any UTF-8 terminal takes: control characters and bytes of file names that are no
    UTF-8 become escapes.
    """
    kept = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    return kept.encode("utf-8", errors="backslashreplace").decode("utf-8")


def in_markdown(text: str) -> str:
    """A name or message as plain text: nothing in it is markup, and it stays on its line."""
    return re.sub(r"([\\`*<>\[\]|])", r"\\\1", printable(text.replace("\n", " ")))


def as_code(text: str) -> str:
    """A name between backticks of Markdown, which it cannot end."""
    name = printable(text.replace("\n", " "))
    return "`" + name.replace("`", "'") + "`"
