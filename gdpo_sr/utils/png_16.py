"""16-bit PNG files of 1 to 4 channels, which Pillow cannot write."""

from __future__ import annotations

import struct
import zlib

import numpy as np

_PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> colour type
_METRE = 0.0254  # in inches

Dpi = tuple[float, float]


def png_16(
    pixels: np.ndarray, icc: bytes | None = None, exif: bytes | None = None, dpi: Dpi | None = None
) -> bytes:
    """A PNG file of (H, W, C) uint16: grey, grey + alpha, RGB or RGBA by C."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOURS[channels], 0, 0, 0)
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    filters = np.full((height, 1), 2, np.uint8)  # type 2: difference to the row above
    data = np.concatenate([filters, rows - above], axis=1).tobytes()
    chunks = [_chunk(b"IHDR", header)]
    if icc is not None:
        chunks.append(_chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc)))
    if dpi is not None:
        per_metre = (round(value / _METRE) for value in dpi)
        chunks.append(_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if exif is not None:
        chunks.append(_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    chunks += [_chunk(b"IDAT", zlib.compress(data)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
