"""Formats that results are written in, and how large a picture each can hold."""

from __future__ import annotations

from pathlib import Path

from gdpo_sr.types import ImageError

WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
DEEP = ("PNG", "TIFF")  # formats that are written with 16 bits
LONGEST_SIDE = {"WEBP": 16383, "JPEG": 65500}
_LARGEST_FILE = 2**32 - 2**16  # of TIFF and BMP, whose positions have 32 bits


def format_of(path: Path) -> str:
    """Pillow's name of the format that the suffix stands for.

    Raises:
        ImageError: another suffix.
    """
    if path.suffix.lower() not in WRITABLE:
        raise ImageError(
            f"cannot write {path}: suffix '{path.suffix}' is not one of {' '.join(WRITABLE)}"
        )
    return WRITABLE[path.suffix.lower()]


def check_size(path: Path, width: int, height: int, bytes_per_pixel: int = 3) -> None:
    """Raise ImageError for a picture that the format of `path` cannot hold."""
    form = format_of(path)
    limit = LONGEST_SIDE.get(form)
    if limit is not None and max(width, height) > limit:
        raise ImageError(
            f"cannot write {path}: {form} holds at most {limit} pixels a side, the result has "
            f"{width}x{height}; use png or tif, or a smaller size"
        )
    if form in ("TIFF", "BMP") and width * height * bytes_per_pixel > _LARGEST_FILE:
        raise ImageError(
            f"cannot write {path}: {form} holds at most 4 GB, the result has {width}x{height}; "
            "use png, or a smaller size"
        )
