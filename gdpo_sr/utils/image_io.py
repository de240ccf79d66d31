"""Reading and writing pictures: any format that Pillow decodes in, float RGB in [0, 1] out."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps

from gdpo_sr.types import DatasetError, ImageError

WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# Formats that Pillow recognises but cannot decode without a program or plug-in that is not
# installed with it.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_SIDEWAYS = {5, 6, 7, 8}  # values of the EXIF orientation that exchange width and height


def read_image(path: str | os.PathLike[str]) -> torch.Tensor:
    """Read a picture upright, as (3, H, W) float32 RGB in [0, 1].

    EXIF orientation is applied and alpha is dropped. Grey pictures keep 16 bits; Pillow reduces
    16-bit RGB to 8 bits.

    Raises:
        ImageError: the file is missing, empty, truncated or not a picture.
    """
    path = Path(path)
    try:
        with Image.open(_existing(path)) as image:
            image.load()
            pixels = _to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Exception as error:  # each decoder of Pillow has exceptions of its own
        raise _unreadable(path, error) from error
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) of the upright picture, from the header alone.

    Raises:
        ImageError: the file is missing, empty or not a picture.
    """
    path = Path(path)
    try:
        with Image.open(_existing(path)) as image:
            width, height = _stored_size(image)
            sideways = _orientation(image) in _SIDEWAYS
    except ImageError:
        raise
    except Exception as error:  # each decoder of Pillow has exceptions of its own
        raise _unreadable(path, error) from error
    return (width, height) if sideways else (height, width)


def write_image(path: str | os.PathLike[str], image: torch.Tensor, quality: int = 95) -> None:
    """Write (3, H, W) RGB in [0, 1], clipped and rounded to 8 bits; the file appears complete or
    not at all.

    Args:
        path: suffix .png, .jpg, .jpeg or .webp; missing folders are made.
        image: (3, H, W), any float type, any device.
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        ImageError: wrong shape or suffix, values that are not finite, or a folder that cannot be
            written.
    """
    path = Path(path)
    picture = Image.fromarray(_to_bytes(path, image))
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(temporary, format=WRITABLE[path.suffix.lower()], quality=quality)
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
    images = sorted(p for p in found if _is_picture(p))
    if not images:
        raise DatasetError(
            f"no picture in the folder {source}; put PNG, JPEG, WebP, ... files into it"
        )
    return images


@lru_cache(maxsize=1)
def _readable_suffixes() -> frozenset[str]:
    known = Image.registered_extensions().items()
    return frozenset(s for s, form in known if form in Image.OPEN and form not in _NOT_DECODED)


def _is_picture(path: Path) -> bool:
    return (
        path.suffix.lower() in _readable_suffixes()
        and not path.name.startswith(".")
        and path.is_file()
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ImageError(f"cannot read {path}: no such file; check the path")
    if path.stat().st_size == 0:
        raise ImageError(f"cannot read {path}: the file is empty; replace or remove it")
    return path


def _unreadable(path: Path, error: Exception) -> ImageError:
    reason = (
        "not a picture" if isinstance(error, Image.UnidentifiedImageError) else str(error).strip()
    )
    reason = " ".join((reason or type(error).__name__).split())
    return ImageError(f"cannot read {path}: {reason}; replace or remove it")


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(W, H) before EXIF orientation, which recent Pillow applies to an opened TIFF's size."""
    if image.format == "TIFF":
        return image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
    return image.size


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; of a PNG only what stands before the pixels, since more would decode it."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1] from a picture of any mode."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float32) / 65535.0
    elif image.mode == "F":
        grey = np.asarray(image).astype(np.float32)
    else:
        return np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255.0)
    if not (np.isfinite(grey).all() and grey.min() >= 0.0 and grey.max() <= 1.0):
        raise ValueError("values beyond the range of a 16-bit or [0, 1] float picture")
    return np.repeat(grey[..., None], 3, axis=2)


def _to_bytes(path: Path, image: torch.Tensor) -> np.ndarray:
    """(H, W, 3) uint8 from (3, H, W), after checks."""
    if path.suffix.lower() not in WRITABLE:
        raise ImageError(
            f"cannot write {path}: suffix '{path.suffix}' is not one of {' '.join(WRITABLE)}"
        )
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ImageError(f"cannot write {path}: shape {tuple(image.shape)} is not (3, H, W)")
    image = image.detach().float().cpu()
    if not torch.isfinite(image).all():
        raise ImageError(
            f"cannot write {path}: the picture holds NaN or infinity; try float32 precision"
        )
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
