"""ICC profiles: pixels to sRGB and back, in floating point where the profile is curves + matrix."""

from __future__ import annotations

import io
import struct
from functools import cached_property

import numpy as np
from PIL import Image, ImageCms

# sRGB primaries adapted to the profile connection space's white (D50), IEC 61966-2-1 / ICC.1.
SRGB_TO_XYZ = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
SAMPLES = np.linspace(0.0, 1.0, 65536)
SAME = 1.5 / 255  # profiles that differ from sRGB by less are taken for it


class CurveProfile:
    """A grey or RGB profile of one curve per channel and, for RGB, a matrix.

    Args:
        content: the profile.

    Raises:
        ValueError: a profile of tables, of another colour space, or a damaged one.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        tags = _tags(content)
        self.is_grey = content[16:20] == b"GRAY"
        if content[16:20] not in (b"GRAY", b"RGB ") or b"A2B0" in tags:
            raise ValueError("not a profile of curves and a matrix")
        names = (b"kTRC",) if self.is_grey else (b"rTRC", b"gTRC", b"bTRC")
        if not {*names, *(() if self.is_grey else (b"rXYZ", b"gXYZ", b"bXYZ"))} <= tags.keys():
            raise ValueError("a curve or a primary is missing")
        self._curves = [_curve(tags[name]) for name in names]
        if not self.is_grey:
            columns = [_numbers(tags[name], 8, 3) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
            self._to_linear_srgb = np.linalg.inv(SRGB_TO_XYZ) @ np.stack(columns, 1)

    @cached_property
    def is_srgb(self) -> bool:
        """Whether conversion would change nothing that 8 bits can show."""
        steps = np.linspace(0, 1, 1 if self.is_grey else 9)
        grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
        if self.is_grey:
            grid = np.repeat(np.linspace(0, 1, 99)[None, :, None], 3, 2)
        return bool(np.abs(self.to_srgb(grid) - grid).max() < SAME)

    def to_srgb(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) of this profile -> sRGB, both in [0, 1]; grey ones have three equal channels.

        Colours that sRGB cannot show are clipped.
        """
        curves = self._curves * 3 if self.is_grey else self._curves
        linear = _through(pixels, [(SAMPLES, curve) for curve in curves])
        if not self.is_grey:
            linear = linear @ self._to_linear_srgb.T.astype(linear.dtype)
        return _through(linear.clip(0, 1), [(_SRGB_CURVE, SAMPLES)] * 3)

    def from_srgb(self, pixels: np.ndarray) -> np.ndarray:
        """The inverse of `to_srgb` on the colours that both hold."""
        linear = _through(pixels, [(SAMPLES, _SRGB_CURVE)] * 3)
        if not self.is_grey:
            linear = linear @ np.linalg.inv(self._to_linear_srgb).T.astype(linear.dtype)
        curves = self._curves * 3 if self.is_grey else self._curves
        return _through(linear.clip(0, 1), [(curve, SAMPLES) for curve in curves])


def srgb_profile() -> bytes:
    """The standard profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def to_srgb_by_tables(image: Image.Image, content: bytes) -> Image.Image:
    """An 8-bit picture of any colour space and profile in sRGB, by Little CMS.

    Raises:
        ImageCms.PyCMSError: the profile does not fit the picture, or is damaged.
    """
    source = ImageCms.ImageCmsProfile(io.BytesIO(content))
    target = ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, source, target, outputMode="RGB")


def _srgb_curve(encoded: np.ndarray) -> np.ndarray:
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


_SRGB_CURVE = _srgb_curve(SAMPLES)


def _through(pixels: np.ndarray, curves: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Each channel through its own increasing curve, given as samples (x, y)."""
    channels = [np.interp(pixels[..., i], x, y) for i, (x, y) in enumerate(curves)]
    return np.stack(channels, -1).astype(np.float32)


def _tags(content: bytes) -> dict[bytes, bytes]:
    if len(content) < 132 or content[36:40] != b"acsp":
        raise ValueError("not an ICC profile")
    (count,) = struct.unpack_from(">I", content, 128)
    tags = {}
    for index in range(min(count, 100)):
        if len(content) < 144 + 12 * index:
            raise ValueError("the profile is cut short")
        name, offset, size = struct.unpack_from(">4sII", content, 132 + 12 * index)
        tags[name] = content[offset : offset + size]
    return tags


def _curve(tag: bytes) -> np.ndarray:
    """Values at SAMPLES of a `curv` or `para` tag."""
    if tag[:4] == b"curv" and len(tag) >= 12:
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return SAMPLES
        table = np.frombuffer(tag, ">u2", count, 12).astype(np.float64)
        if count == 1:
            return SAMPLES ** (table[0] / 256)
        return np.interp(SAMPLES, np.linspace(0, 1, count), table / 65535)
    if tag[:4] == b"para" and len(tag) >= 12:
        return _parametric(tag)
    raise ValueError("unknown kind of curve")


def _parametric(tag: bytes) -> np.ndarray:
    """ICC.1 table 65: (a x + b)^g + e from d on, c x + f below."""
    (kind,) = struct.unpack_from(">H", tag, 8)
    counts = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}
    if kind not in counts:
        raise ValueError("unknown kind of curve")
    g, a, b, c, d, e, f = [*_numbers(tag, 12, counts[kind]), *[0.0] * 7][:7]
    if kind == 0:
        return SAMPLES**g
    if kind in (1, 2):
        c, d, e, f = 0.0, -b / a, (c if kind == 2 else 0.0), (c if kind == 2 else 0.0)
    base = np.maximum(a * SAMPLES + b, 0)
    return np.where(SAMPLES >= d, base**g + e, c * SAMPLES + f).clip(0, 1)


def _numbers(tag: bytes, offset: int, count: int) -> np.ndarray:
    """Signed numbers of 16 + 16 bits."""
    if len(tag) < offset + 4 * count:
        raise ValueError("the profile is cut short")
    return np.frombuffer(tag, ">i4", count, offset) / 65536
