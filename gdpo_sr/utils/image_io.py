"""Reading and writing pictures: any format that Pillow decodes in, float RGB in [0, 1] out."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gdpo_sr.types import ImageError
from gdpo_sr.utils.image_decode import decode, image_size
from gdpo_sr.utils.picture_folder import is_picture, list_images
from gdpo_sr.utils.picture_formats import DEEP, WRITABLE, check_size, format_of
from gdpo_sr.utils.png_16 import png_16
from gdpo_sr.utils.tiff_file import tiff_file
from gdpo_sr.writer import write_result

__all__ = [
    "DEEP",
    "WRITABLE",
    "image_size",
    "is_picture",
    "list_images",
    "read_image",
    "write_image",
    "write_pixels",
]


def read_image(
    path: str | os.PathLike[str], frame: int = 0, max_pixels: int | None = None
) -> torch.Tensor:
    """Read a picture upright, as (3, H, W) float32 RGB in [0, 1] with all its bits.

    EXIF orientation is applied, alpha is dropped, RGB profiles are ignored.

    Raises:
        ImageError: the file is missing, empty, truncated or not a picture.
    """
    pixels = decode(path, frame, max_pixels).pixels
    channels = [0, 1, 2] if pixels.shape[2] > 2 else [0, 0, 0]
    return torch.from_numpy(np.ascontiguousarray(pixels[..., channels].transpose(2, 0, 1)))


def write_image(path: str | os.PathLike[str], image: torch.Tensor, quality: int = 95) -> None:
    """Write (3, H, W) RGB in [0, 1], clipped and rounded to 8 bits; the file appears complete or
    not at all.

    Args:
        path: its suffix, one of WRITABLE, is the format; missing folders are made.
        image: (3, H, W), any float type, any device.
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        ImageError: wrong shape or suffix, values that are not finite, or a folder that cannot be
            written.
    """
    write_pixels(path, _to_bytes(Path(path), image), quality)


def write_pixels(
    path: str | os.PathLike[str],
    pixels: np.ndarray,
    quality: int = 95,
    icc: bytes | None = None,
    exif: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> None:
    """Write finished pixels; the file appears complete or not at all.

    Args:
        path: its suffix, one of WRITABLE, is the format; missing folders are made.
        pixels: (H, W, C) uint8, or uint16 for PNG and TIFF; grey, grey + alpha, RGB or RGBA.
        quality: 1 to 100, for JPEG and WebP.
        icc, exif: to embed; BMP has no place for them.
        dpi: pixels per inch across and down; WebP has no place for it.

    Raises:
        ImageError: another suffix, a picture too large for its format, or a folder that cannot be
            written.
    """
    path = Path(path)
    form = format_of(path)
    check_size(path, pixels.shape[1], pixels.shape[0], pixels.shape[2] * pixels.itemsize)
    try:
        if form == "TIFF":
            content = tiff_file(pixels, icc, exif, dpi)
        elif pixels.dtype == np.uint16:
            content = png_16(pixels, icc, exif, dpi)
        else:
            extras = {"icc_profile": icc, "exif": exif, "dpi": dpi}
            content = _encoded(pixels, form, quality, extras)
        write_result(path, content)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error  # without the temporary name
        raise ImageError(
            f"cannot write {path}: {reason}; check the name, the folder and the free space"
        ) from error


def _encoded(pixels: np.ndarray, form: str, quality: int, extras: dict[str, Any]) -> bytes:
    """The file's content by Pillow, with those extras that there are and that the format knows."""
    unknown = {"BMP": ("icc_profile", "exif"), "WEBP": ("dpi",)}.get(form, ())
    options = {k: v for k, v in extras.items() if v is not None and k not in unknown}
    if form in ("JPEG", "WEBP"):
        options["quality"] = quality
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.save(buffer, format=form, **options)
    return buffer.getvalue()


def _to_bytes(path: Path, image: torch.Tensor) -> np.ndarray:
    """(H, W, 3) uint8 from (3, H, W), after checks."""
    format_of(path)
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ImageError(f"cannot write {path}: shape {tuple(image.shape)} is not (3, H, W)")
    image = image.detach().float().cpu()
    if not torch.isfinite(image).all():
        raise ImageError(
            f"cannot write {path}: the picture holds NaN or infinity; try float32 precision"
        )
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
