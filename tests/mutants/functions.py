"""The functions of a source file that stand in no other function, as code objects."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

Key = tuple[str, int]
"""Name and first line."""
Functions = dict[Key, CodeType]


def key_of(code: CodeType) -> Key:
    """By which a function is found again after a change."""
    return code.co_name, code.co_firstlineno


def functions_of(path: str, source: str | None = None) -> Functions:
    """Functions and methods of a file, or of another text of it, with all that stands in them."""
    text = Path(path).read_text(encoding="utf-8") if source is None else source
    return {key_of(code): code for code in _outermost(compile(text, path, "exec"))}


def _outermost(body: CodeType) -> Iterator[CodeType]:
    """A class body runs once, where it stands, and has no local variables of its own."""
    for code in body.co_consts:
        if isinstance(code, CodeType):
            is_function = bool(code.co_flags & 0x2)
            yield from [code] if is_function else _outermost(code)


@contextmanager
def executed(path: str) -> Iterator[set[Key]]:
    """The set of all functions of a file, inner ones too, that run inside the context."""
    keys: set[Key] = set()

    def trace(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename == path:
            keys.add(key_of(frame.f_code))

    sys.setprofile(trace)
    try:
        yield keys
    finally:
        sys.setprofile(None)
