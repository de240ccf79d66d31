"""Picture files as upright float arrays with every channel and all their bits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from gdpo_sr.types import ImageError
from gdpo_sr.utils.icc import to_srgb_by_tables

_SIDEWAYS = {5, 6, 7, 8}  # values of the EXIF orientation that exchange width and height


@dataclass(frozen=True)
class Decoded:
    """A decoded file.

    Attributes:
        pixels: (H, W, C) float32 in [0, 1], upright; grey, grey + alpha, RGB or RGBA by C. Alpha
            is not multiplied in.
        bits: 8 or 16 per channel; float files count as 16.
        mode: of the file, in Pillow's words, such as ``CMYK``, ``P`` or ``RGB;16``.
        icc: the embedded profile of `pixels`, or None.
    """

    pixels: np.ndarray
    bits: int
    mode: str
    icc: bytes | None = None


def decode(path: str | os.PathLike[str]) -> Decoded:
    """Read a picture file; the first frame of an animation.

    Raises:
        ImageError: the file is missing, empty, truncated or not a picture.
    """
    path = Path(path)
    try:
        with Image.open(_existing(path)) as image:
            return _decode_deep(path, image) if _is_deep_colour(image) else _decode_usual(image)
    except ImageError:
        raise
    except Exception as error:  # each decoder of Pillow has exceptions of its own
        raise _unreadable(path, error) from error


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


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether Pillow would reduce the colours of this file from 16 to 8 bits."""
    if image.format == "PNG":
        depth_and_colour = _bytes_at(image, 24, 2)
        return depth_and_colour[:1] == b"\x10" and depth_and_colour[1:] != b"\0"
    if image.format == "TIFF":
        bits = image.tag_v2.get(ExifTags.Base.BitsPerSample, ())
        colours = image.tag_v2.get(ExifTags.Base.PhotometricInterpretation)
        return set(bits) == {16} and len(bits) > 2 and colours == 2
    return False


def _bytes_at(image: Image.Image, offset: int, count: int) -> bytes:
    position = image.fp.tell()
    image.fp.seek(offset)
    found = image.fp.read(count)
    image.fp.seek(position)
    return found


def _decode_deep(path: Path, image: Image.Image) -> Decoded:
    """16-bit colour by OpenCV; orientation, profile and kind of alpha from Pillow's header."""
    encoded = np.frombuffer(path.read_bytes(), np.uint8)
    stored = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if stored is None or stored.ndim != 3 or stored.dtype != np.uint16:
        raise ValueError("damaged, or a kind of 16-bit file that cannot be decoded")
    pixels = stored[..., [2, 1, 0, 3][: stored.shape[2]]].astype(np.float32) / 65535
    if image.format == "TIFF" and image.tag_v2.get(ExifTags.Base.ExtraSamples, (0,))[0] == 1:
        alpha = np.maximum(pixels[..., 3:], 1e-6)
        pixels[..., :3] = np.minimum(pixels[..., :3] / alpha, 1)
    if image.format == "PNG" and _bytes_at(image, 25, 1) == b"\4":
        pixels = pixels[..., [0, 3]]
    mode = {2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[pixels.shape[2]]
    icc = image.info.get("icc_profile")
    image.load()  # a PNG may hold its orientation behind the pixels
    orientation = image.tag_v2.get(274, 1) if image.format == "TIFF" else _orientation(image)
    return Decoded(_upright(pixels, orientation), 16, mode, icc)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation, 1 to 8."""
    if orientation in _SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _decode_usual(image: Image.Image) -> Decoded:
    mode, icc = image.mode, image.info.get("icc_profile")
    image.load()
    image = ImageOps.exif_transpose(image)
    if mode.startswith("I") or mode == "F":
        return Decoded(_deep_grey(image)[..., None], 16, mode)
    if mode == "CMYK" and icc:
        image, icc = _cmyk_to_srgb(image, icc), None
    wanted = _plain_mode(image)
    plain = image if image.mode == wanted else image.convert(wanted)
    pixels = np.asarray(plain, dtype=np.float32) / np.float32(255)
    return Decoded(pixels.reshape(*pixels.shape[:2], -1), 8, mode, icc)


def _deep_grey(image: Image.Image) -> np.ndarray:
    """(H, W) float32 in [0, 1]."""
    grey = np.asarray(image).astype(np.float32)
    if image.mode != "F":
        grey = grey / np.float32(65535)
    if not (np.isfinite(grey).all() and grey.min() >= 0.0 and grey.max() <= 1.0):
        raise ValueError("values beyond the range of a 16-bit or [0, 1] float picture")
    return grey


def _cmyk_to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    try:
        return to_srgb_by_tables(image, icc)
    except (ImageCms.PyCMSError, OSError):  # a profile of something else: as without one
        return image.convert("RGB")


def _plain_mode(image: Image.Image) -> str:
    """The mode among L, LA, RGB and RGBA that holds everything that `image` shows."""
    if image.mode in ("1", "L", "LA", "La"):
        has_alpha = "transparency" in image.info or len(image.mode) == 2
        return "LA" if has_alpha else "L"
    has_alpha = "transparency" in image.info or image.mode in ("RGBA", "RGBa", "PA")
    return "RGBA" if has_alpha else "RGB"


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
