"""Collect the freely licensed photographs of `photos.csv` for a small training run.

The packages are Debian ones (plus one Python wheel) and are unpacked into one folder:

    apt-get download lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds \\
        plasma-workspace-wallpapers lxqt-themes palapeli-data puzzle-jigsaw
    for deb in *.deb; do dpkg -x "$deb" unpacked; done
    pip download --no-deps scikit-image && unzip scikit_image-*.whl 'skimage/data/*' -d unpacked
    python collect_photos.py unpacked photos

Result: photos/train and photos/val with <stem>__x1.jpg (long side at most 2560 px) and, where its
short side stays at least 700 px, <stem>__x2.jpg (half of x1). RGB, JPEG 95.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from pathlib import Path

from PIL import Image

LONG_SIDE = 2560
SHORT_SIDE = 700
QUALITY = 95
TABLE = Path(__file__).with_name("photos.csv")


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of the table: package, path, stem, author, year, licence, split."""
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """The image times `factor` (at most 1) per side, Lanczos."""
    if factor >= 1:
        return image
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def copies(image: Image.Image) -> dict[str, Image.Image]:
    """Name suffix to picture: x1 always, x2 when its short side is at least SHORT_SIDE px."""
    factor = min(1.0, LONG_SIDE / max(image.size))
    result = {"x1": scaled(image, factor)}
    half = scaled(image, factor / 2)
    if min(half.size) >= SHORT_SIDE:
        result["x2"] = half
    return result


def save_jpeg(image: Image.Image, path: Path) -> None:
    """Write `path` through a temporary name in the same folder."""
    temporary = path.with_suffix(".tmp")
    image.save(temporary, format="JPEG", quality=QUALITY, subsampling=0)
    os.replace(temporary, path)


def collect(root: Path, out: Path, rows: list[dict[str, str]]) -> int:
    """Write every picture of the table; returns the number of files written."""
    written = 0
    for row in rows:
        folder = out / row["split"]
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(root / row["path"]) as handle:
            image = handle.convert("RGB")
        for suffix, picture in copies(image).items():
            save_jpeg(picture, folder / f"{row['stem']}__{suffix}.jpg")
            written += 1
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description="Collect the photographs of a table.")
    parser.add_argument("root", type=Path, help="folder with the unpacked packages")
    parser.add_argument("out", type=Path, help="receives train/ and val/")
    parser.add_argument("--table", type=Path, default=TABLE, help="default: photos.csv beside it")
    args = parser.parse_args()
    rows = read_table(args.table)
    lost = [row for row in rows if not (args.root / row["path"]).is_file()]
    if lost:
        names = ", ".join(f"{row['package']}: {row['path']}" for row in lost)
        sys.exit(f"collect_photos: not below {args.root}, unpack the package first: {names}")
    print(f"{collect(args.root, args.out, rows)} files written to {args.out}")


if __name__ == "__main__":
    main()
