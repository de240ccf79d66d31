"""Captions of pictures: from a text file beside each, or from the cache of what a tagger said."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gdpo_sr.types import DatasetError

Captions = Callable[[Sequence[Path]], list[str]]
"""Captions of pictures, in their order."""

FILE = "captions.jsonl"


def file_captions(paths: Sequence[Path]) -> list[str]:
    """Text of photo.txt for each photo.jpg, its lines joined; an empty file is an empty caption.

    Raises:
        DatasetError: a file is missing or no UTF-8 text.
    """
    files = [path.with_suffix(".txt") for path in paths]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DatasetError(
            f"{missing[0]} is missing ({len(missing)} of {len(files)} such): write the caption of "
            "the picture beside it, an empty file for none, or take one prompt for all "
            "(network_g.prompts.source: fixed, or no --captions)"
        )
    return [_read_text(file) for file in files]


def _read_text(file: Path) -> str:
    try:
        return " ".join(file.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: not UTF-8 text; save the caption as UTF-8") from error


def cache_folder(root: str | Path, model: str, settings: Mapping[str, Any]) -> Path:
    """Folder, below `root`, of what one tagger with these settings says."""
    text = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9.]+", "_", model).strip("_.")[-60:]
    return Path(root) / f"{name}-{digest}"


class CaptionCache:
    """Captions by the SHA-256 of a picture's bytes, on disk as one JSON line for every picture.

    A picture that was moved or copied is found again. Lines also hold path, size and time of
    change, so that a folder that was seen before is not read again to be hashed. A line that was
    cut off is ignored.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self._by_hash: dict[str, str] = {}
        self._hashes: dict[tuple[str, int, int], str] = {}
        for line in self._lines():
            self._enter(line)

    def find(self, path: Path) -> str | None:
        """Caption of the picture, or None."""
        if not self._by_hash:
            return None
        return self._by_hash.get(self._hashes.get(_place(path)) or _hash(path))

    def add(self, path: Path, caption: str) -> None:
        """Write down the caption of a picture."""
        name, size, changed = _place(path)
        record = {
            "sha256": _hash(path),
            "caption": caption,
            "file": name,
            "size": size,
            "mtime_ns": changed,
        }
        self._enter(record)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(record, ensure_ascii=False) + "\n"
        with self.file.open("ab", buffering=0) as file:
            file.write((b"\n" if self._cut_off() else b"") + line.encode(errors="surrogateescape"))

    def knows(self, path: Path) -> bool:
        """Whether the picture has a line of its own, and need not be hashed to be found."""
        return _place(path) in self._hashes

    def captions(self, paths: Sequence[Path]) -> list[str]:
        """As `Captions`.

        Raises:
            DatasetError: a picture has no caption.
        """
        found = {path: self.find(path) for path in paths}
        missing = [path for path, caption in found.items() if caption is None]
        if missing:
            raise DatasetError(
                f"{missing[0]} has no caption in {self.file} ({len(missing)} of {len(found)} "
                "such): run python scripts/cache_prompts.py -opt FILE with this run's options"
            )
        return [found[path] for path in paths]

    def _enter(self, record: Mapping[str, Any]) -> None:
        self._by_hash[record["sha256"]] = record["caption"]
        place = record["file"], record["size"], record["mtime_ns"]
        self._hashes[place] = record["sha256"]

    def _lines(self) -> list[dict[str, Any]]:
        if not self.file.is_file():
            return []
        text = self.file.read_text(encoding="utf-8", errors="surrogateescape")
        records = []
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if _is_record(record):
                records.append(record)
        return records

    def _cut_off(self) -> bool:
        size = self.file.stat().st_size
        with self.file.open("rb") as file:
            file.seek(max(size - 1, 0))
            return size > 0 and file.read() != b"\n"


def _place(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return os.fspath(path.resolve()), status.st_size, status.st_mtime_ns


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_record(value: Any) -> bool:
    """Whether a line is one that `CaptionCache.add` wrote."""
    kinds = {"sha256": str, "caption": str, "file": str, "size": int, "mtime_ns": int}
    return isinstance(value, dict) and all(isinstance(value.get(k), t) for k, t in kinds.items())
