"""PPM and PGM files of more than 8 bits, whose colours Pillow would reduce.

Source: the Netpbm format descriptions, P2, P3, P5 and P6 with a maximum above 255.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

_COMMENT = rb"(?:\s|#[^\n]*\n)+"
_HEADER = re.compile(rb"P([2356])" + (_COMMENT + rb"(\d{1,9})") * 3 + rb"(?:#[^\n]*\n|\s)")


def deep_ppm_maximum(path: Path) -> int:
    """The value of white where it is above 255, or 0 for every other file."""
    with path.open("rb") as file:
        found = _HEADER.match(file.read(4096))
    maximum = int(found[4]) if found else 0
    return maximum if 255 < maximum < 65536 else 0


def read_deep_ppm(path: Path) -> np.ndarray:
    """(H, W, 1 or 3) float32 in [0, 1].

    Raises:
        ValueError: the file is cut short or holds values above its maximum.
    """
    content = path.read_bytes()
    header = _HEADER.match(content)
    kind, width, height, maximum = (int(header[group]) for group in range(1, 5))
    channels = 3 if kind in (3, 6) else 1
    count = width * height * channels
    body = content[header.end() :]
    if kind in (5, 6):
        values = np.frombuffer(body, ">u2", min(count, len(body) // 2))
    else:
        words = re.sub(rb"#[^\n]*", b" ", body).split()[:count]
        values = np.array([int(word) for word in words], np.int64)
    if values.size != count:
        raise ValueError("the file is cut short")
    if values.size and values.max() > maximum:
        raise ValueError(f"a value above the maximum of {maximum} that the file states")
    return (values.reshape(height, width, channels) / np.float64(maximum)).astype(np.float32)
