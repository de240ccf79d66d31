"""Picture files as upright float arrays with every channel and all their bits."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageCms, ImageOps

from gdpo_sr.types import ImageError
from gdpo_sr.utils.deep_ppm import deep_ppm_maximum, read_deep_ppm
from gdpo_sr.utils.icc import to_srgb_by_tables
from gdpo_sr.utils.metadata import dpi_of, dpi_of_tiff, exif_of_tiff, kept_exif
from gdpo_sr.utils.picture_file import (
    check_pixels,
    existing,
    open_picture,
    orientation,
    pixel_limit,
    seek,
    unreadable,
)
from gdpo_sr.utils.png_read import deep_png_pixels, is_deep_png, mend_transparent_grey
from gdpo_sr.utils.tiff import (
    is_tiff,
    open_tiff,
    orientation_of,
    page_of,
    read_page,
    tiff_icc,
    whole_pages,
    with_first_orientation,
)
from gdpo_sr.utils.tiff_kind import pillow_is_right

_SIDEWAYS = {5, 6, 7, 8}  # values of the EXIF orientation that exchange width and height

Answer = TypeVar("Answer")
StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Decoded:
    """A decoded file.

    Attributes:
        pixels: (H, W, C) float32 in [0, 1], upright; grey, grey + alpha, RGB or RGBA by C. Alpha
            is not multiplied in.
        bits: 8 or 16 per channel; files of more than 8 bits, and float ones, count as 16.
        mode: of the file, in Pillow's words, such as ``CMYK``, ``P`` or ``RGB;16``.
        icc: the embedded profile of `pixels`, or None.
        exif: EXIF data that is true of the upright picture, or None.
        dpi: pixels per inch across and down, or None.
    """

    pixels: np.ndarray
    bits: int
    mode: str
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None


def decode(path: StrPath, frame: int = 0, max_pixels: int | None = None) -> Decoded:
    """Read a picture file.

    Args:
        path: the file.
        frame: page of a TIFF, or frame of an animation.
        max_pixels: above which nothing is decoded; None: `picture_file.pixel_limit()`.

    Raises:
        ImageError: the file is missing, empty, truncated, too large, of a kind whose values are not
            known, or not a picture.
    """
    limit = pixel_limit(max_pixels)

    def read(file: Path) -> Decoded:
        if is_tiff(file):
            return _decode_tiff(file, frame, limit)
        if deep_ppm_maximum(file):
            return _decode_ppm(file, limit)
        with open_picture(file) as image:
            seek(image, frame)
            check_pixels(file, *image.size, limit)
            mend_transparent_grey(image)
            deep = frame == 0 and is_deep_png(image)
            found = _decode_deep_png(file, image) if deep else _decode_usual(image)
            dpi = _turned(dpi_of(image.info), orientation(image))
            return replace(found, exif=kept_exif(image.getexif()), dpi=dpi)

    return _asked(path, read)


def image_size(path: StrPath, frame: int = 0) -> tuple[int, int]:
    """(H, W) of the upright picture, from the header alone.

    Raises:
        ImageError: the file is missing, empty or not a picture.
    """

    def read(file: Path) -> tuple[int, int]:
        if is_tiff(file):
            with open_tiff(file) as tiff:
                page = page_of(tiff, frame)
                width, height, turned = page.imagewidth, page.imagelength, orientation_of(page)
        else:
            with open_picture(file) as image:
                seek(image, frame)
                (width, height), turned = image.size, orientation(image)
        if not all(isinstance(side, int) and side > 0 for side in (width, height)):  # TIFF: several
            raise ValueError(f"its header says {width}x{height} pixels")
        return (width, height) if turned in _SIDEWAYS else (height, width)

    return _asked(path, read)


def frame_count(path: StrPath) -> int:
    """Pages of a TIFF or frames of an animation; 1 for other pictures.

    Raises:
        ImageError: the file is missing, empty or not a picture.
    """

    def read(file: Path) -> int:
        if is_tiff(file):
            with open_tiff(file) as tiff:
                return len(whole_pages(tiff))
        with open_picture(file) as image:
            return getattr(image, "n_frames", 1)

    return _asked(path, read)


def _asked(path: StrPath, read: Callable[[Path], Answer]) -> Answer:
    """`read` of an existing file; whatever a decoder raises is an ImageError that names it."""
    file = Path(path)
    try:
        return read(existing(file))
    except ImageError:
        raise
    except Exception as error:  # each decoder has exceptions of its own
        raise unreadable(file, error) from error


def _decode_tiff(path: Path, frame: int, limit: int) -> Decoded:
    with open_tiff(path) as tiff:
        page = page_of(tiff, frame)
        check_pixels(path, page.imagewidth, page.imagelength, limit)
        turned, exif = orientation_of(page), exif_of_tiff(path.read_bytes())
        extras = {"exif": kept_exif(exif), "dpi": _turned(dpi_of_tiff(exif), turned)}
        if pillow_is_right(page):
            content = None if turned == 1 else with_first_orientation(path, page)
            with open_picture(path, content) as image:
                seek(image, page.index)
                found = _decode_usual(image)
            return replace(found, pixels=_upright(found.pixels, turned), **extras)
        pixels = read_page(path, page, page.index)
        bits = 8 if page.bitspersample <= 8 else 16
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
        mode = "F" if page.sampleformat == 3 else mode if bits == 8 else f"{mode};16"
        return Decoded(_upright(pixels, turned), bits, mode, tiff_icc(page), **extras)


def _decode_ppm(path: Path, limit: int) -> Decoded:
    with open_picture(path) as image:
        check_pixels(path, *image.size, limit)
    pixels = read_deep_ppm(path)
    return Decoded(pixels, 16, "RGB;16" if pixels.shape[2] == 3 else "L;16")


def _decode_deep_png(path: Path, image: Image.Image) -> Decoded:
    """16-bit colour; orientation and profile from Pillow's header."""
    pixels, icc = deep_png_pixels(path, image), image.info.get("icc_profile")
    mode = {2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[pixels.shape[2]]
    image.load()  # a PNG may hold its orientation behind the pixels
    return Decoded(_upright(pixels, orientation(image)), 16, mode, icc)


def _upright(pixels: np.ndarray, turned: int) -> np.ndarray:
    """Apply an EXIF orientation, 1 to 8."""
    if turned in _SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if turned in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if turned in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _turned(dpi: tuple[float, float] | None, turned: int) -> tuple[float, float] | None:
    return (dpi[1], dpi[0]) if dpi is not None and turned in _SIDEWAYS else dpi


def _decode_usual(image: Image.Image) -> Decoded:
    mode, icc = image.mode, image.info.get("icc_profile")
    image.load()
    image = ImageOps.exif_transpose(image)
    if mode.startswith("I") or mode == "F":
        return Decoded(_deep_grey(image), 16, mode, icc)
    if mode == "CMYK" and icc:
        image, icc = _cmyk_to_srgb(image, icc), None
    wanted = _plain_mode(image)
    plain = image if image.mode == wanted else image.convert(wanted)
    pixels = np.asarray(plain, dtype=np.float32) / np.float32(255)
    return Decoded(pixels.reshape(*pixels.shape[:2], -1), 8, mode, icc)


def _deep_grey(image: Image.Image) -> np.ndarray:
    """(H, W, 1 or 2) float32 in [0, 1]."""
    values = np.asarray(image)
    grey = values.astype(np.float32)
    if image.mode != "F":
        grey = grey / np.float32(65535)
    if not (np.isfinite(grey).all() and grey.min() >= 0.0 and grey.max() <= 1.0):
        raise ValueError("values beyond the range of a 16-bit or [0, 1] float picture")
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # the one grey that is transparent
        return np.stack([grey, (values != clear).astype(np.float32)], -1)
    return grey[..., None]


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
