"""A finished picture as its file: what the format can hold of it."""

from __future__ import annotations

from typing import Any

from gdpo_sr.restore.candidate_sink import Finished
from gdpo_sr.restore.plan import Job
from gdpo_sr.utils.image_io import write_pixels
from gdpo_sr.utils.picture_formats import DEEP, check_size, format_of
from gdpo_sr.utils.picture_modes import SourcePicture
from gdpo_sr.utils.resample import Frame


def result_bits(job: Job, picture: SourcePicture, asked: int | None) -> int:
    """Those of the source where the format can hold them, unless others are asked for."""
    can_16 = format_of(job.target) in DEEP
    return asked or (picture.bits if can_16 else 8)


def check_result_size(job: Job, picture: SourcePicture, frame: Frame, bits: int) -> None:
    """Raise ImageError, before the work, for a result that its format cannot hold."""
    channels = (1 if picture.is_grey else 3) + (picture.alpha is not None)
    check_size(job.target, frame.width, frame.height, channels * bits // 8)


def write_result(
    job: Job,
    finished: Finished,
    quality: int,
    exif: bytes | None,
    dpi: tuple[float, float] | None,
) -> None:
    """Write the picture and its heat map.

    Raises:
        ImageError: one of them cannot be written.
    """
    pixels, form = finished.pixels, format_of(job.target)
    if form in ("JPEG", "BMP") and pixels.shape[2] in (2, 4):
        pixels = _on_white(pixels)
    if form == "WEBP" and pixels.shape[2] < 3:
        pixels = pixels[..., [0, 0, 0, 1][: pixels.shape[2] + 2]]
    if finished.heat_map is not None and job.heat_map is not None:
        write_pixels(job.heat_map, finished.heat_map)
    write_pixels(job.target, pixels, quality, finished.icc, exif, dpi)


def _on_white(pixels: Any) -> Any:
    """(H, W, 1 or 3) uint8: what a format without alpha can show."""
    opacity = pixels[..., -1:].astype("float32") / 255
    return (pixels[..., :-1] * opacity + 255 * (1 - opacity)).round().astype("uint8")
