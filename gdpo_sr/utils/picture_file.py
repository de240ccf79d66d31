"""Opening picture files: an explicit list of formats, and a limit on the number of pixels."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image

from gdpo_sr.types import ImageError, OptionError

# Nothing that a program outside of Pillow would have to run (EPS, PS, PDF, WMF) or that is no
# photo (FITS, HDF5, GRIB, fonts, icons).
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .mpo .webp .tif .tiff .bmp .dib .gif .ppm .pgm .pbm .pnm "
    ".pfm .jp2 .j2k .jpx .avif .avifs .tga".split()
)
# Pictures too, of kinds that are not read.
OTHER_SUFFIXES = frozenset(
    ".heic .heif .hif .jxl .psd .psb .exr .hdr .pam .qoi .svg .dng .cr2 .cr3 .nef .arw .raf .orf "
    ".rw2".split()
)
_OTHER_MARKS = {
    rb"....ftyp(hei|hev|mif1|msf1)": "HEIC",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "JPEG XL",
    rb"8BPS": "a Photoshop file",
    rb"v/1\x01": "OpenEXR",
    rb"#\?R": "Radiance HDR",
    rb"P7\s": "PAM",
    rb"PF\s": "PFM of colours",
    rb"%PDF": "PDF",
    rb"version https://git-lfs": "a pointer of Git LFS: git lfs pull gets the picture",
    rb"\s*<": "a text such as SVG or a web page",
}
MAX_PIXELS = 100_000_000
MAX_PIXELS_VARIABLE = "GDPO_SR_MAX_PIXELS"

_limit_of_pillow = threading.Lock()


@contextmanager
def open_picture(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """The file, or `content` in its place, by Pillow: its header read and nothing decoded. TGA,
    which no mark at its start tells apart, by its suffix alone.
    """
    formats = ("TGA",) if path.suffix.lower() == ".tga" else FORMATS
    with _limit_of_pillow:  # ours is checked instead: it can be raised
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(BytesIO(content) if content else path, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    with image:
        yield image


def pixel_limit(asked: int | None = None) -> int:
    """Pixels that a picture may have: `asked`, else the environment's, else MAX_PIXELS.

    Raises:
        OptionError: the environment variable is no positive number.
    """
    if asked is not None:
        return asked
    text = os.environ.get(MAX_PIXELS_VARIABLE, str(MAX_PIXELS))
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 19 and int(text)):
        raise OptionError(f"{MAX_PIXELS_VARIABLE}={text}: give a number of pixels, 1 or more")
    return int(text)


def check_pixels(path: Path, width: int, height: int, limit: int) -> None:
    """Raise ImageError for a picture of more than `limit` pixels."""
    if width * height > limit:
        raise ImageError(
            f"cannot read {path}: {width}x{height} is {width * height / 1e6:.1f} million pixels, "
            f"the limit is {limit / 1e6:g} million; raise it by --max_pixels or by "
            f"{MAX_PIXELS_VARIABLE}={width * height}, or make the picture smaller"
        )


def existing(path: Path) -> Path:
    """The path of a file that is there and not empty, or an ImageError."""
    if not path.is_file():
        raise ImageError(f"cannot read {path}: no such file; check the path")
    if path.stat().st_size == 0:
        raise ImageError(f"cannot read {path}: the file is empty; replace or remove it")
    return path


def unreadable(path: Path, error: Exception) -> ImageError:
    """What a decoder said, as one line."""
    reason = str(error).strip()
    if isinstance(error, Image.UnidentifiedImageError):
        reason = f"not a picture of a known format ({', '.join(FORMATS)}){_known_as(path)}"
    reason = " ".join((reason or type(error).__name__).split())
    return ImageError(f"cannot read {path}: {reason}; replace or remove it")


def _known_as(path: Path) -> str:
    """What a file is that is no picture, where its first bytes tell it."""
    with path.open("rb") as file:
        start = file.read(64)
    names = (name for mark, name in _OTHER_MARKS.items() if re.match(mark, start, re.DOTALL))
    return next((f" but {name}" for name in names), "")


def orientation(image: Image.Image) -> int:
    """EXIF orientation; of a PNG only what stands before the pixels, since more would decode it."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def seek(image: Image.Image, frame: int) -> None:
    """Go to a frame of an opened file; staying at the first decodes nothing."""
    if frame:
        image.seek(frame)
