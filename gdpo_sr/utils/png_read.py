"""What Pillow reads wrongly of PNG files: colours of 16 bits, and a transparent grey of few bits.

Source: PNG (Third Edition), W3C: IHDR and tRNS.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

_DEPTH, _COLOUR = 24, 25  # places in the file


def is_deep_png(image: Image.Image) -> bool:
    """Whether Pillow would reduce the colours of this file from 16 to 8 bits."""
    if image.format != "PNG":
        return False
    return _byte_at(image, _DEPTH) == 16 and _byte_at(image, _COLOUR) != 0


def mend_transparent_grey(image: Image.Image) -> None:
    """Stretch the grey that is transparent to 8 bits, as Pillow stretches those of the pixels."""
    clear = image.info.get("transparency")
    if image.format == "PNG" and image.mode == "L" and isinstance(clear, int):
        white = 2 ** _byte_at(image, _DEPTH) - 1
        image.info["transparency"] = (clear & white) * 255 // white


def deep_png_pixels(path: Path, image: Image.Image) -> np.ndarray:
    """(H, W, 2, 3 or 4) float32 in [0, 1] by OpenCV, as stored.

    Raises:
        ValueError: the file is damaged.
    """
    import cv2

    encoded = np.frombuffer(path.read_bytes(), np.uint8)
    stored = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if stored is None or stored.ndim != 3 or stored.dtype != np.uint16:
        raise ValueError("damaged, or a kind of 16-bit file that cannot be decoded")
    pixels = stored[..., [2, 1, 0, 3][: stored.shape[2]]].astype(np.float32) / 65535
    if _byte_at(image, _COLOUR) == 4:  # grey and alpha
        pixels = pixels[..., [0, 3]]
    clear = image.info.get("transparency")
    if isinstance(clear, tuple):  # the one colour that is transparent
        opacity = (stored[..., 2::-1] != np.asarray(clear, np.uint16)).any(-1, keepdims=True)
        pixels = np.concatenate([pixels[..., :3], opacity.astype(np.float32)], -1)
    return pixels


def _byte_at(image: Image.Image, place: int) -> int:
    position = image.fp.tell()
    image.fp.seek(place)
    found = image.fp.read(1)
    image.fp.seek(position)
    return found[0] if found else 0
