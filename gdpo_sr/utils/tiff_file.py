"""TIFF files of 8 or 16 bits with all that belongs to a picture.

Pillow writes neither 16-bit colours nor EXIF data into a compressed one.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2


def tiff_file(
    pixels: np.ndarray,
    icc: bytes | None = None,
    exif: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """A TIFF 6.0 file of (H, W, C) uint8 or uint16, one deflated strip of horizontal differences.

    Grey + alpha is written as RGBA, since few programs read the former.
    """
    if pixels.shape[2] == 2:
        pixels = pixels[..., [0, 0, 0, 1]]
    height, width, channels = pixels.shape
    words = pixels.astype(pixels.dtype.newbyteorder("<"))
    words[:, 1:] -= words[:, :-1].copy()
    strip = zlib.compress(words.tobytes())
    tags = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    if exif is not None:
        known = Image.Exif()
        known.load(exif)
        tags.update({tag: value for tag, value in known.items() if not isinstance(value, int)})
        tags.update({place: dict(known.get_ifd(place)) for place in (0x8769, 0x8825)})
    tags.update({256: width, 257: height, 258: (8 * pixels.itemsize,) * channels})
    tags.update({259: 8, 317: 2})  # deflate, horizontal differences
    tags.update({262: 2 if channels > 2 else 1, 277: channels})  # RGB or grey
    tags.update({273: 0, 278: height, 279: len(strip)})  # position 0: right behind the tags
    if channels == 4:
        tags[338] = 2  # alpha is not multiplied in
    if icc is not None:
        tags.tagtype[34675] = 7
        tags[34675] = icc
    if dpi is not None:
        tags.update({282: dpi[0], 283: dpi[1], 296: 2})
    return struct.pack("<2sHI", b"II", 42, 8) + tags.tobytes(8) + strip
