"""TIFF files of every kind: their pages, and the samples of those that Pillow reads wrongly.

Source: TIFF Revision 6.0 (Adobe, 1992) for the photometric interpretations and ExtraSamples.
"""

from __future__ import annotations

import logging
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import UnidentifiedImageError

from gdpo_sr.utils.picture_file import open_picture
from gdpo_sr.utils.tiff_kind import FLOAT, RGB, WHITE_IS_ZERO, check_kind, extra_samples

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_tiff(path: Path) -> bool:
    """Whether the file begins as a TIFF or BigTIFF does."""
    with path.open("rb") as file:
        return file.read(4) in _MARKS


def open_tiff(path: Path) -> TiffFile:
    """The file by tifffile, whose remarks about odd tags are not for a user."""
    from tifffile import TiffFile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return TiffFile(path)


def page_of(tiff: TiffFile, frame: int = 0) -> TiffPage:
    """Page `frame` with all its tags; reduced copies and masks do not count."""
    return whole_pages(tiff)[frame]


def whole_pages(tiff: TiffFile) -> list[Any]:
    """Pages that are pictures of their own.

    Raises:
        ValueError: there is none.
    """
    pages = [tiff.pages[index].aspage() for index in range(len(tiff.pages))]
    if not pages:
        raise ValueError("a TIFF without a picture")
    return [page for page in pages if not int(page.subfiletype) & 5] or pages[:1]


def orientation_of(page: TiffPage) -> int:
    """1 to 8; 1 where the tag is missing or nonsense."""
    value = page.tags.valueof(274, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def with_first_orientation(path: Path, page: TiffPage) -> bytes:
    """The file's content with orientation 1: Pillow reads turned uncompressed ones wrongly."""
    content = bytearray(path.read_bytes())
    tag = page.tags[274]
    content[tag.valueoffset : tag.valueoffset + 2] = (1).to_bytes(2, _byte_order(page))
    return bytes(content)


def _byte_order(page: TiffPage) -> Literal["little", "big"]:
    return "little" if page.parent.byteorder == "<" else "big"


def read_page(path: Path, page: TiffPage, frame: int) -> np.ndarray:
    """(H, W, C) float32 in [0, 1], as stored: grey, grey + alpha, RGB or RGBA by C.

    Raises:
        ValueError: a kind whose values have no agreed meaning, damage, or a compression that
            cannot be decoded here.
    """
    check_kind(page)
    _check_complete(path, page)
    values = _in_unit(_samples(path, page, frame), page)
    colours = 3 if int(page.photometric) == RGB else 1
    if int(page.photometric) == WHITE_IS_ZERO:
        values[..., 0] = 1 - values[..., 0]
    alpha = _alpha_channel(page, colours)
    if alpha is None:
        return values[..., :colours]
    pixels = values[..., [*range(colours), alpha]]
    if page.extrasamples and int(page.extrasamples[alpha - colours]) == 1:  # premultiplied
        opacity = np.maximum(pixels[..., -1:], 1e-6)
        pixels[..., :-1] = np.minimum(pixels[..., :-1] / opacity, 1)
    return pixels


def _check_complete(path: Path, page: TiffPage) -> None:
    """tifffile fills what is missing with zeros, in silence."""
    size = path.stat().st_size
    pieces = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if not pieces or any(not o or not n or o + n > size for o, n in pieces):
        raise ValueError("the file is cut short")


def _samples(path: Path, page: TiffPage, frame: int) -> np.ndarray:
    """(H, W, S) raw values; what tifffile cannot decompress is left to libtiff."""
    try:
        whole_bytes = page.bitspersample in (8, 16, 32, 64)
        samples = page.asarray() if whole_bytes else _unpacked(page)
    except (ValueError, ImportError) as error:
        if isinstance(error, ValueError) and "imagecodecs" not in str(error):
            raise
        samples = _by_libtiff(path, page, frame)
    size = (page.imagelength, page.imagewidth)
    if page.samplesperpixel > 1 and int(page.planarconfig) == 2:
        samples = np.moveaxis(samples.reshape(page.samplesperpixel, *size), 0, -1)
    return samples.reshape(*size, page.samplesperpixel)


def _unpacked(page: TiffPage) -> np.ndarray:
    """Samples of no whole bytes or of 24 bits, which lie behind each other without gaps; a row
    begins at a byte.
    """
    bits, across = page.bitspersample, page.imagewidth * page.samplesperpixel
    plain, deflated = page.compression == 1, page.compression in (8, 32946)
    if page.is_tiled or int(page.planarconfig) == 2 or page.predictor != 1 or page.fillorder != 1:
        raise ValueError(f"a TIFF of {bits} bits in tiles, planes or differences is not supported")
    if not (plain or deflated):
        raise ValueError("packed samples need imagecodecs")
    file = page.parent.filehandle
    rows = []
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.seek(offset)
        strip = file.read(count)
        single = np.frombuffer(strip if plain else zlib.decompress(strip), np.uint8)
        rows.append(single.reshape(-1, (across * bits + 7) // 8))
    digits = np.unpackbits(np.concatenate(rows), axis=1)[: page.imagelength, : across * bits]
    powers = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint32)
    return digits.reshape(-1, bits) @ powers


def _by_libtiff(path: Path, page: TiffPage, frame: int) -> np.ndarray:
    """Samples of a compressed file: grey ones from Pillow, interleaved colours from OpenCV."""
    found = None
    if page.samplesperpixel == 1:
        with suppress(UnidentifiedImageError), open_picture(path) as image:
            image.seek(frame)
            found = np.asarray(image)
    elif int(page.planarconfig) == 1 and frame == 0:
        import cv2

        encoded = np.frombuffer(path.read_bytes(), np.uint8)
        found = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        if found is not None and found.ndim == 3:
            found = found[..., [2, 1, 0, 3][: found.shape[2]]]
    if found is None or found.dtype != page.dtype or found.size != np.prod(page.shape):
        name = getattr(page.compression, "name", page.compression)
        raise ValueError(
            f"a TIFF of this kind with {name} compression cannot be decoded; save it with deflate"
        )
    return found


def _in_unit(samples: np.ndarray, page: TiffPage) -> np.ndarray:
    if page.sampleformat == FLOAT:
        values = samples.astype(np.float32)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError("a float TIFF with values beyond the range 0 to 1; scale it")
        return values
    return (samples / float(2**page.bitspersample - 1)).astype(np.float32)


def _alpha_channel(page: TiffPage, colours: int) -> int | None:
    """The sample that is opacity. A fourth one that nothing is said about is taken for it, as by
    other programs; one that is said to be something else is left out.
    """
    extra = extra_samples(page)
    if not extra:
        return colours if page.samplesperpixel == colours + 1 else None
    return next((colours + i for i, kind in enumerate(extra) if kind in (1, 2)), None)


def tiff_icc(page: TiffPage) -> bytes | None:
    """The embedded profile."""
    value = page.tags.valueof(34675)
    return value if isinstance(value, bytes) else None
