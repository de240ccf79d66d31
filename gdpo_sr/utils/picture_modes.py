"""What a picture file is besides RGB - alpha, grey, 16 bits, a colour profile - kept through
restoration.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms

from gdpo_sr.utils.icc import CurveProfile, srgb_profile, to_srgb_by_tables
from gdpo_sr.utils.image_decode import Decoded, decode

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's conversion to grey


@dataclass(frozen=True)
class SourcePicture:
    """A picture ready for the model, and what its result has to be given back.

    Attributes:
        color: (3, H, W) sRGB in [0, 1]; transparent places hold the colours around them.
        alpha: (1, H, W) in [0, 1], or None.
        is_grey: the file has one colour channel.
        bits: 8 or 16.
        mode: of the file, for reports.
        icc: the profile to embed in the result, or None.
        profile: converts sRGB to the space of `icc`; None where that is sRGB.
        exif, dpi: for the result, or None.
    """

    color: torch.Tensor
    alpha: torch.Tensor | None
    is_grey: bool
    bits: int
    mode: str
    icc: bytes | None = None
    profile: CurveProfile | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None


def load_picture(
    path: str | os.PathLike[str], frame: int = 0, max_pixels: int | None = None
) -> SourcePicture:
    """Read a file with everything that its result should keep; arguments as of `decode`.

    Raises:
        ImageError: the file is missing, empty, truncated or not a picture.
    """
    decoded = decode(path, frame, max_pixels)
    channels = decoded.pixels.shape[2]
    is_grey, has_alpha = channels < 3, channels in (2, 4)
    colors = decoded.pixels[..., :1].repeat(3, 2) if is_grey else decoded.pixels[..., :3]
    colors, icc, profile = _managed(colors, is_grey, decoded)
    color = torch.from_numpy(np.ascontiguousarray(colors.transpose(2, 0, 1)))
    alpha = torch.from_numpy(decoded.pixels[..., -1].copy())[None] if has_alpha else None
    if alpha is not None:
        color = fill_transparent(color, alpha)
    extras = {"exif": decoded.exif, "dpi": decoded.dpi}
    return SourcePicture(color, alpha, is_grey, decoded.bits, decoded.mode, icc, profile, **extras)


def fill_transparent(color: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Replace colours (3, H, W) where `alpha` (1, H, W) is 0 by those around, weighted by alpha.

    What a file hides there, often black, would else shine through at the edges once enlarged.
    """
    hidden = alpha == 0
    if not hidden.any():
        return color
    return torch.where(hidden, _spread(color * alpha, alpha), color)


def _spread(premultiplied: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Colours everywhere: own ones where there is alpha, else those of ever coarser copies."""
    own = premultiplied / alpha.clamp(min=1e-6)
    if max(alpha.shape[-2:]) == 1 or alpha.min() > 0:
        return own
    halves = [
        F.avg_pool2d(part[None], 2, ceil_mode=True, count_include_pad=False)[0]
        for part in (premultiplied, alpha)
    ]
    coarse = F.interpolate(_spread(*halves)[None], alpha.shape[-2:], mode="bilinear")[0]
    return torch.where(alpha > 0, own, coarse)


def result_channels(
    color: torch.Tensor, alpha: torch.Tensor | None, picture: SourcePicture
) -> torch.Tensor:
    """Restored rows (3, r, W) as the channels of the result (C, r, W): grey stays grey."""
    if picture.is_grey:
        weights = torch.tensor(LUMA, device=color.device)[:, None, None]
        color = (color * weights).sum(0, keepdim=True).clamp(0, 1)
    return color if alpha is None else torch.cat([color, alpha])


def to_profile(pixels: np.ndarray, profile: CurveProfile, dtype: type) -> np.ndarray:
    """(H, W, C) uint16 sRGB -> integers of type `dtype` in `profile`; alpha is kept. In strips."""
    result = np.empty(pixels.shape, dtype)
    top, channels = np.iinfo(dtype).max, pixels.shape[2]
    colours = 1 if channels < 3 else 3
    for row in range(0, len(pixels), 64):
        strip = pixels[row : row + 64].astype(np.float32) / 65535
        color = strip[..., :colours].repeat(4 - colours if colours == 1 else 1, 2)
        strip[..., :colours] = profile.from_srgb(color)[..., :colours]
        result[row : row + 64] = np.rint(strip * top)
    return result


def _managed(
    colors: np.ndarray, is_grey: bool, decoded: Decoded
) -> tuple[np.ndarray, bytes | None, CurveProfile | None]:
    """Colours in sRGB, the profile for the result, and the converter back to it."""
    if decoded.mode == "CMYK":
        return colors, srgb_profile(), None
    if decoded.icc is None:
        return colors, None, None
    try:
        profile = CurveProfile(decoded.icc)
    except ValueError:
        return _by_tables(colors, is_grey, decoded.icc)
    if profile.is_grey != is_grey:
        return colors, None, None  # a profile of something else
    if profile.is_srgb:
        return colors, decoded.icc, None
    return profile.to_srgb(colors), decoded.icc, profile


def _by_tables(
    colors: np.ndarray, is_grey: bool, icc: bytes
) -> tuple[np.ndarray, bytes | None, None]:
    """As `_managed`, with 8 bits; the result stays in sRGB."""
    image = Image.fromarray(np.rint(colors * 255).astype(np.uint8))
    try:
        converted = to_srgb_by_tables(image.convert("L") if is_grey else image, icc)
    except (ImageCms.PyCMSError, OSError):
        return colors, None, None  # damaged, or of something else
    return np.asarray(converted, np.float32) / 255, None if is_grey else srgb_profile(), None
