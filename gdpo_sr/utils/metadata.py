"""What a result keeps of its source's EXIF data: what is true of both."""

from __future__ import annotations

import math
from typing import Any

from PIL import ExifTags, Image

_BASE, _IFD = ExifTags.Base, ExifTags.IFD
# Of the main directory; the rest describes how the source stores its pixels, or its orientation,
# which is applied.
_KEPT = (
    _BASE.ImageDescription, _BASE.Make, _BASE.Model, _BASE.Software, _BASE.DateTime, _BASE.Artist,
    _BASE.Copyright,
)  # fmt: skip
# Sizes and thumbnails of the source, and notes that name places in the file.
_DROPPED = {_BASE.ExifImageWidth, _BASE.ExifImageHeight, _BASE.MakerNote, int(_IFD.Interop)}


def kept_exif(exif: Image.Exif) -> bytes | None:
    """The EXIF data of a result, or None where there is nothing to keep or all is damaged."""
    try:
        result = Image.Exif()
        for tag in _KEPT:
            if tag in exif:
                result[tag] = exif[tag]
        for place in (_IFD.Exif, _IFD.GPSInfo):
            inner = {k: v for k, v in exif.get_ifd(place).items() if k not in _DROPPED}
            if inner:
                result[place] = inner
        return result.tobytes() if len(result) else None
    except Exception:  # cameras write anything; a picture is not lost for it
        return None


def exif_of_tiff(content: bytes) -> Image.Exif:
    """The tags of a TIFF file, which is laid out as EXIF data is; empty if they are damaged."""
    exif = Image.Exif()
    try:
        exif.load(content)
    except Exception:  # as above
        return Image.Exif()
    return exif


def dpi_of(info: dict[Any, Any]) -> tuple[float, float] | None:
    """Pixels per inch of an opened picture, or None where the file does not say."""
    found = info.get("dpi")
    try:
        across, down = (float(value) for value in found)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    good = all(math.isfinite(value) and 1 <= value < 1e6 for value in (across, down))
    return (across, down) if good else None


def dpi_of_tiff(exif: Image.Exif) -> tuple[float, float] | None:
    """As `dpi_of`, from the tags of a TIFF."""
    per_inch = {2: 1.0, 3: 2.54}.get(exif.get(_BASE.ResolutionUnit, 2))
    try:
        both = [float(exif[tag]) * per_inch for tag in (_BASE.XResolution, _BASE.YResolution)]
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return dpi_of({"dpi": both})
