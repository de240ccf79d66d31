"""Minimal ICC profiles (version 2), built here so that no file is needed."""

from __future__ import annotations

import struct

# Adobe RGB (1998), adapted to D50
WIDE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
WHITE = (0.9642, 1.0, 0.8249)


def rgb_profile(gamma: float) -> bytes:
    """Wide primaries with one gamma for the three channels."""
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    tags = {name: _xyz(*column) for name, column in zip(names, WIDE, strict=True)}
    tags |= {name: _gamma(gamma) for name in (b"rTRC", b"gTRC", b"bTRC")}
    return _profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    """Grey with a gamma."""
    return _profile(b"GRAY", {b"kTRC": _gamma(gamma)})


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": _description(), b"wtpt": _xyz(*WHITE), b"cprt": _text(b"CC0"), **tags}
    position, entries, data = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        entries += struct.pack(">4sII", name, position + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    header = struct.pack(">I4xI4s4s4s12x4s", position + len(data), 0x02400000, b"mntr", space,
                         b"XYZ ", b"acsp").ljust(68, b"\0")  # fmt: skip
    header += b"".join(struct.pack(">i", round(65536 * v)) for v in WHITE)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + data


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(65536 * v)) for v in values)


def _gamma(value: float) -> bytes:
    return b"curv" + struct.pack(">IIH", 0, 1, round(256 * value))


def _text(text: bytes) -> bytes:
    return b"text\0\0\0\0" + text + b"\0"


def _description() -> bytes:
    name = b"test\0"
    return b"desc" + struct.pack(">II", 0, len(name)) + name + b"\0" * 78
