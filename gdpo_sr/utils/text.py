"""Text that any terminal takes, columns, and names that Markdown takes for nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence


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


def align(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of columns of equal width, the first `left` ones to the left, others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(width) if i < left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
