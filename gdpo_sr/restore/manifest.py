"""The manifest of a results folder: one JSON line per picture, what went in and what came out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

NAME = "manifest.jsonl"


def append(folder: Path, record: dict[str, Any]) -> None:
    """Add a line; several processes may do so at once, since a line is one write."""
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, ensure_ascii=False) + "\n"
    file = os.open(folder / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode("utf-8", errors="surrogateescape"))
    finally:
        os.close(file)


def read(folder: Path) -> list[dict[str, Any]]:
    """Every record, oldest first; a picture that was restored again has several."""
    lines = (folder / NAME).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
