"""The example photos: enough of them, large enough, small on disk, credited, splits disjoint."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
SPLITS = ("train", "val")
MAX_BYTES = 10_000_000
THUMBNAIL = 32  # px per side
SAME_PHOTO = 0.95  # correlation of grey thumbnails; different photos of the set stay below 0.85


def photos(split: str) -> list[Path]:
    return sorted((DATASETS / "example" / split).iterdir())


def all_photos() -> list[Path]:
    return [path for split in SPLITS for path in photos(split)]


def thumbnail(path: Path) -> np.ndarray:
    """(THUMBNAIL**2,) grey values of mean 0 and norm 1."""
    with Image.open(path) as image:
        grey = image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    values = np.asarray(grey, dtype=np.float64).ravel()
    values -= values.mean()
    return values / np.linalg.norm(values)


def test_counts() -> None:
    assert len(photos("train")) >= 24
    assert len(photos("val")) >= 8


def test_total_size() -> None:
    assert sum(path.stat().st_size for path in all_photos()) <= MAX_BYTES


@pytest.mark.parametrize("path", all_photos(), ids=lambda path: path.stem)
def test_photo_is_whole_rgb_and_large_enough(path: Path) -> None:
    assert re.fullmatch(r"[a-z0-9_]+\.jpg", path.name)
    with Image.open(path) as image:
        image.load()
        assert image.mode == "RGB"
        assert min(image.size) >= 512


def test_every_photo_is_credited_once() -> None:
    text = (DATASETS / "README.md").read_text(encoding="utf-8")
    credited = re.findall(r"^\| ((?:train|val)/\S+) \|", text, flags=re.MULTILINE)
    present = [f"{path.parent.name}/{path.name}" for path in all_photos()]
    assert sorted(credited) == sorted(present)


def test_every_credit_names_source_author_and_licence() -> None:
    text = (DATASETS / "README.md").read_text(encoding="utf-8")
    free = re.compile(r"CC0-1\.0|CC-BY(-SA)?-[34]\.0|GPL-2\+|LGPL-3\.0|public domain")
    for line in re.findall(r"^\| (?:train|val)/.*$", text, flags=re.MULTILINE):
        _, source, author, _, licence, changes = (cell.strip() for cell in line.split("|")[1:-1])
        assert source and author and changes, line
        assert free.match(licence), line


def test_no_photo_twice() -> None:
    """Correlation of every pair of thumbnails, also across the splits."""
    paths = all_photos()
    stack = np.stack([thumbnail(path) for path in paths])
    correlation = np.triu(stack @ stack.T, k=1)
    i, j = np.unravel_index(correlation.argmax(), correlation.shape)
    assert correlation[i, j] < SAME_PHOTO, f"{paths[i]} and {paths[j]} look alike"
