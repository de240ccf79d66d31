"""16-bit PNG and TIFF files of 1 to 4 channels, which Pillow cannot write."""

from __future__ import annotations

import struct
import zlib

import numpy as np

_PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> colour type


def png_16(pixels: np.ndarray, icc: bytes | None = None) -> bytes:
    """A PNG file of (H, W, C) uint16: grey, grey + alpha, RGB or RGBA by C."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOURS[channels], 0, 0, 0)
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    filters = np.full((height, 1), 2, np.uint8)  # type 2: difference to the row above
    data = np.concatenate([filters, rows - above], axis=1).tobytes()
    profile = [] if icc is None else [_chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc))]
    chunks = [_chunk(b"IHDR", header), *profile, _chunk(b"IDAT", zlib.compress(data))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff_16(pixels: np.ndarray, icc: bytes | None = None) -> bytes:
    """A TIFF 6.0 file of (H, W, C) uint16, one deflated strip of horizontal differences.

    Grey + alpha is written as RGBA, since few programs read the former.
    """
    if pixels.shape[2] == 2:
        pixels = pixels[..., [0, 0, 0, 1]]
    height, width, channels = pixels.shape
    words = pixels.astype("<u2")
    words[:, 1:] -= words[:, :-1].copy()
    strip = zlib.compress(words.tobytes())
    tags: list[tuple[int, int, int, bytes]] = [  # number, type (3 short, 4 long, 7 raw), count
        (256, 4, 1, struct.pack("<I", width)),
        (257, 4, 1, struct.pack("<I", height)),
        (258, 3, channels, struct.pack(f"<{channels}H", *[16] * channels)),
        (259, 3, 1, struct.pack("<H", 8)),  # deflate
        (262, 3, 1, struct.pack("<H", 2 if channels > 2 else 1)),  # RGB, grey
        (273, 4, 1, struct.pack("<I", 8)),  # the strip follows the file header
        (277, 3, 1, struct.pack("<H", channels)),
        (278, 4, 1, struct.pack("<I", height)),
        (279, 4, 1, struct.pack("<I", len(strip))),
        (317, 3, 1, struct.pack("<H", 2)),  # horizontal differences
    ]
    if channels == 4:
        tags.append((338, 3, 1, struct.pack("<H", 2)))  # not premultiplied
    if icc is not None:
        tags.append((34675, 7, len(icc), icc))
    strip += b"\0" * (len(strip) % 2)
    return (
        struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip + _directory(8 + len(strip), tags)
    )


def _directory(start: int, tags: list[tuple[int, int, int, bytes]]) -> bytes:
    """The list of tags at position `start`, followed by the values that do not fit into it."""
    position = start + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for number, kind, count, value in tags:
        place = value.ljust(4, b"\0")
        if len(value) > 4:
            place = struct.pack("<I", position + len(values))
            values += value + b"\0" * (len(value) % 2)
        entries += struct.pack("<HHI", number, kind, count) + place
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + values
