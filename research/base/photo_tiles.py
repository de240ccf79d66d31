"""Copies of a photograph at two sizes, and square tiles of them.

Tiles do not overlap, so that no part of a copy is in two of them; what is left over at the borders
is cut off equally on both sides. Training needs one small crop of a file, and a tile is quicker to
decode than a whole photograph. Tiles without texture (sky, blur) are left out: the smooth parts of
the others show the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gdpo_sr.rewards.content_weights import texture_ratio

LONG_SIDE = 2560
SHORT_SIDE = 700
QUALITY = 95
LEAST_TEXTURE = 0.05  # share of a tile's area


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """The image times `factor` (at most 1) per side, Lanczos."""
    if factor >= 1:
        return image
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def copies(image: Image.Image) -> dict[str, Image.Image]:
    """Name suffix to picture: x1, its long side at most LONG_SIDE px, always; x2, half of it, when
    its short side is at least SHORT_SIDE px.
    """
    factor = min(1.0, LONG_SIDE / max(image.size))
    result = {"x1": scaled(image, factor)}
    half = scaled(image, factor / 2)
    if min(half.size) >= SHORT_SIDE:
        result["x2"] = half
    return result


def tiles(image: Image.Image, side: int) -> Iterator[tuple[str, Image.Image]]:
    """Name suffix `r0c0` and tile, row by row; none of a picture smaller than a tile."""
    columns, rows = (length // side for length in image.size)
    left, top = (image.width - columns * side) // 2, (image.height - rows * side) // 2
    for row in range(rows):
        for column in range(columns):
            x, y = left + column * side, top + row * side
            yield f"r{row}c{column}", image.crop((x, y, x + side, y + side))


def is_textured(tile: Image.Image) -> bool:
    """Whether enough of an RGB tile is texture, by the reward's own measure."""
    pixels = torch.from_numpy(np.array(tile)).permute(2, 0, 1)[None] / 255
    return float(texture_ratio(pixels)) >= LEAST_TEXTURE


def save_jpeg(image: Image.Image, path: Path) -> None:
    """Write `path`, 4:4:4, through a temporary name in the same folder."""
    temporary = path.with_suffix(".tmp")
    image.save(temporary, format="JPEG", quality=QUALITY, subsampling=0)
    os.replace(temporary, path)


def write_photo(image: Image.Image, folder: Path, stem: str, side: int) -> list[str]:
    """Write both copies of an RGB photograph, as tiles of `side` px or whole if that is 0.

    Returns:
        Names of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for size, copy in copies(image).items():
        if side == 0:
            pictures[f"{stem}__{size}.jpg"] = copy
            continue
        for place, tile in tiles(copy, side):
            if is_textured(tile):
                pictures[f"{stem}__{size}_{place}.jpg"] = tile
    for name, picture in pictures.items():
        save_jpeg(picture, folder / name)
    return list(pictures)
