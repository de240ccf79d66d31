"""Text that any terminal takes."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text that any UTF-8 terminal takes: control characters and bytes of file names that are no
    UTF-8 become escapes.
    """
    kept = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    return kept.encode("utf-8", errors="backslashreplace").decode("utf-8")
