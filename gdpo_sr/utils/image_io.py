"""Reading and writing pictures: any format that Pillow decodes in, float RGB in [0, 1] out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gdpo_sr.types import DatasetError, ImageError
from gdpo_sr.utils.image_decode import decode, image_size
from gdpo_sr.utils.picture_file import SUFFIXES
from gdpo_sr.utils.sixteen_bit import png_16, tiff_16

__all__ = [
    "WRITABLE",
    "image_size",
    "is_picture",
    "list_images",
    "read_image",
    "write_image",
    "write_pixels",
]

WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
DEEP = {"PNG": png_16, "TIFF": tiff_16}  # formats that are written with 16 bits


def read_image(path: str | os.PathLike[str]) -> torch.Tensor:
    """Read a picture upright, as (3, H, W) float32 RGB in [0, 1] with all its bits.

    EXIF orientation is applied, alpha is dropped, RGB profiles are ignored.

    Raises:
        ImageError: the file is missing, empty, truncated or not a picture.
    """
    pixels = decode(path).pixels
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
) -> None:
    """Write finished pixels; the file appears complete or not at all.

    Args:
        path: its suffix, one of WRITABLE, is the format; missing folders are made.
        pixels: (H, W, C) uint8, or uint16 for PNG and TIFF; grey, grey + alpha, RGB or RGBA.
        quality: 1 to 100, for JPEG and WebP.
        icc: profile to embed; BMP has no place for it.

    Raises:
        ImageError: another suffix, or a folder that cannot be written.
    """
    path = Path(path)
    form = _format(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels.dtype == np.uint16:
            temporary.write_bytes(DEEP[form](pixels, icc))
        else:
            picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            picture.save(temporary, format=form, **_save_options(form, quality, icc))
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"cannot write {path}: {error}; check the folder and the free space"
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def list_images(source: str | os.PathLike[str], recursive: bool = False) -> list[Path]:
    """Pictures of a folder, by suffix and sorted by path; a file gives itself. Hidden files are
    left out.

    Raises:
        DatasetError: `source` does not exist or holds no picture.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DatasetError(
            f"no such file or folder: {source}; give the path of a picture or of a folder"
        )
    found = source.rglob("*") if recursive else source.iterdir()
    images = sorted(p for p in found if is_picture(p))
    if not images:
        raise DatasetError(
            f"no picture in the folder {source}; put PNG, JPEG, WebP, ... files into it"
        )
    return images


def is_picture(path: Path) -> bool:
    """Whether the suffix is one that can be read; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _format(path: Path) -> str:
    if path.suffix.lower() not in WRITABLE:
        raise ImageError(
            f"cannot write {path}: suffix '{path.suffix}' is not one of {' '.join(WRITABLE)}"
        )
    return WRITABLE[path.suffix.lower()]


def _save_options(form: str, quality: int, icc: bytes | None) -> dict[str, Any]:
    """What Pillow is told, for the formats that know it."""
    options: dict[str, Any] = {}
    if form in ("JPEG", "WEBP"):
        options["quality"] = quality
    if form == "TIFF":
        options["compression"] = "tiff_adobe_deflate"
    if icc is not None and form != "BMP":
        options["icc_profile"] = icc
    return options


def _to_bytes(path: Path, image: torch.Tensor) -> np.ndarray:
    """(H, W, 3) uint8 from (3, H, W), after checks."""
    _format(path)
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ImageError(f"cannot write {path}: shape {tuple(image.shape)} is not (3, H, W)")
    image = image.detach().float().cpu()
    if not torch.isfinite(image).all():
        raise ImageError(
            f"cannot write {path}: the picture holds NaN or infinity; try float32 precision"
        )
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
