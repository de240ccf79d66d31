"""Which pictures are photographs worth training on, and which are alike.

The bounds were set on 179 pictures of eleven packages, so these figures are not of unseen ones: of
the 52 photographs that somebody had chosen 30 pass (the rest are soft or grey), of the 127 other
pictures 20, and at least 12 of these 20 are paintings or renderings with grain. The filters save
work; they do not replace a look at what they let through. What was looked at and turned down is in
the table of photographs with split `none`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from gdpo_sr.utils import picture_file

LEAST_SIDE = 512
BLOCK, WINDOW, THUMBNAIL = 8, 1024, 512
MOST_FLAT = 0.15  # share of blocks of a single colour
LEAST_COLOURS = 6.0  # bits, entropy of the colours at 5 bits a channel
LEAST_DETAIL = 2.0  # median of |Laplacian|, levels of 255
LEAST_SATURATION = 5.0  # mean of largest minus smallest channel, levels of 255
ALIKE = 8  # of 64 bits that differ


def open_picture(path: Path) -> Image.Image:
    """A decoded picture.

    Raises:
        gdpo_sr.types.ImageError: it cannot be decoded.
    """
    try:
        with picture_file.open_picture(path) as image:
            picture_file.check_pixels(path, *image.size, picture_file.pixel_limit())
            image.load()
            return image
    except (OSError, ValueError, SyntaxError) as error:
        raise picture_file.unreadable(path, error) from error


def reason_against(image: Image.Image) -> str:
    """Why a picture is no photograph to train on; "" if it is one."""
    if min(image.size) < LEAST_SIDE:
        return f"small: {image.width}x{image.height}, at least {LEAST_SIDE} px are asked"
    if image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255:
        return "transparent"
    image = image.convert("RGB")
    if (flat := flat_share(image)) > MOST_FLAT:
        return f"drawing: {flat:.2f} of the blocks are flat"
    small = _thumbnail(image)
    if (spread := saturation(small)) < LEAST_SATURATION:
        return f"grey: mean saturation {spread:.1f}"
    if (bits := colour_entropy(small)) < LEAST_COLOURS:
        return f"drawing: {bits:.1f} bits of colour"
    if (strength := detail(small)) < LEAST_DETAIL:
        return f"drawing or soft: detail {strength:.2f}"
    return ""


def flat_share(image: Image.Image) -> float:
    """Share of 8x8 blocks with one colour, in the middle 1024 px at full size; sensor noise leaves
    hardly any.
    """
    left, top = (max(0, (side - WINDOW) // 2) for side in image.size)
    box = (left, top, min(image.width, left + WINDOW), min(image.height, top + WINDOW))
    pixels = np.asarray(image.crop(box))
    rows, columns = (side // BLOCK for side in pixels.shape[:2])
    blocks = pixels[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK, 3)
    same = blocks == blocks[:, :1, :, :1]
    return float(same.all(axis=(1, 3, 4)).mean())


def saturation(pixels: np.ndarray) -> float:
    """Mean distance of the largest and the smallest channel of (H, W, 3) levels."""
    return float((pixels.max(-1) - pixels.min(-1)).mean())


def colour_entropy(pixels: np.ndarray) -> float:
    """Entropy in bits of the colours of (H, W, 3) levels, at 5 bits a channel."""
    coarse = pixels.astype(np.int64) >> 3
    counts = np.bincount(((coarse[..., 0] << 10) | (coarse[..., 1] << 5) | coarse[..., 2]).ravel())
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def detail(pixels: np.ndarray) -> float:
    """Median of |Laplacian| of the grey picture of (H, W, 3) levels."""
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    inner = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1]
    return float(np.median(np.abs(inner - grey[1:-1, :-2] - grey[1:-1, 2:])))


def fingerprint(image: Image.Image) -> int:
    """64 bits that hardly change with size, compression and brightness: the signs, about their
    median, of the lowest 8x8 cosine coefficients of a 32x32 copy.
    """
    small = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=float)
    waves = _cosines(32)[1:9]
    signs = (waves @ small @ waves.T).ravel()
    return sum(1 << place for place, bit in enumerate(signs > np.median(signs)) if bit)


@lru_cache(maxsize=1)
def _cosines(length: int) -> np.ndarray:
    """(length, length), row k is the k-th cosine of the discrete cosine transform."""
    places = (np.arange(length) + 0.5) * math.pi / length
    return np.cos(np.arange(length)[:, None] * places)


def _thumbnail(image: Image.Image) -> np.ndarray:
    """(H, W, 3) levels of a copy with a long side of at most 512 px, each pixel a mean."""
    factor = min(1.0, THUMBNAIL / max(image.size))
    size = tuple(max(3, round(side * factor)) for side in image.size)
    return np.asarray(image.resize(size, Image.Resampling.BOX), dtype=np.int16)


class Seen:
    """Fingerprints of the pictures taken so far."""

    def __init__(self) -> None:
        self._stems: dict[str, int] = {}

    def add(self, bits: int, stem: str) -> None:
        """Remember a picture under its name."""
        self._stems[stem] = bits

    def twin(self, bits: int) -> str:
        """Name of a picture that looks the same, or ""."""
        near = (stem for stem, other in self._stems.items() if (bits ^ other).bit_count() <= ALIKE)
        return next(near, "")
