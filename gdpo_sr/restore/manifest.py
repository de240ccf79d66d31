"""The manifest of a results folder: one JSON line per picture, what went in and what came out."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from gdpo_sr.types import OptionError

NAME = "manifest.jsonl"


def append(folder: Path, record: dict[str, Any]) -> None:
    """Add a line; several processes may do so at once, since a line is one write.

    Raises:
        OptionError: the manifest is a link, or cannot be written.
    """
    check_manifest(folder)
    line = json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / NAME, flags, 0o666)
        try:
            # bytes of file names that are no UTF-8 become \udc.., which JSON reads back
            os.write(file, line.encode("utf-8", errors="backslashreplace"))
        finally:
            os.close(file)
    except OSError as error:
        raise OptionError(f"cannot write {folder / NAME}: {error}; check the folder") from error


def check_manifest(folder: Path) -> None:
    """Raise OptionError where a link stands in the manifest's place, which is not followed, or
    something else that is no file.
    """
    place = folder / NAME
    if place.is_symlink():
        raise OptionError(f"{place} is a link and is not followed; remove it")
    if place.exists() and not place.is_file():
        raise OptionError(f"{place} is no file; remove it")


def read(folder: Path) -> list[dict[str, Any]]:
    """Every record, oldest first; a picture that was restored again has several. A line that was
    cut off, or is none of ours, is left out; without a manifest there are none.
    """
    check_manifest(folder)
    try:
        lines = (folder / NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OptionError(f"cannot read {folder / NAME}: {error.strerror}; mend it") from error
    found = [_record(line) for line in lines]
    return [record for record in found if isinstance(record, dict)]


def _record(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _finite(value: Any) -> Any:
    """The value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
