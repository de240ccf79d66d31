"""A sheet of small pictures, each input beside its result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFont

from gdpo_sr.restore.plan import Job
from gdpo_sr.types import ImageError, OptionError
from gdpo_sr.utils.image_decode import decode
from gdpo_sr.utils.image_io import read_image, write_pixels
from gdpo_sr.utils.picture_formats import check_size

SIDE = 240  # of a small picture
COLUMNS = 3  # pairs in a row
CAPTION = 22
GAP = 10
SHOWN = 300  # pairs at most
MARK = "contact sheet of gdpo_sr"


def check_sheet(path: Path, jobs: Sequence[Job]) -> None:
    """Find out before the work whether the sheet can be written.

    Raises:
        OptionError: it is a folder, or would replace anything but an earlier sheet.
        ImageError: another suffix, or a format that cannot hold it.
    """
    taken = {os.path.realpath(p) for j in jobs for p in (j.source, j.target, j.heat_map) if p}
    if os.path.realpath(path) in taken or path.is_dir():
        kind = "a folder" if path.is_dir() else "an input or a result"
        raise OptionError(f"--preview {path}: this is {kind}; give the name of a new picture")
    if path.exists() and not _is_sheet(path):
        raise OptionError(f"--preview {path}: this exists and is no sheet; name a new picture")
    check_size(path, *_size(min(len(jobs), SHOWN)))


def _size(pairs: int) -> tuple[int, int]:
    """Width and height of the sheet."""
    rows, columns = -(-pairs // COLUMNS), min(COLUMNS, pairs)
    return GAP + columns * (2 * SIDE + 2 + GAP), GAP + rows * (SIDE + CAPTION + GAP)


def write_sheet(path: Path, jobs: Sequence[Job]) -> Path:
    """Write the sheet of the pictures that have a result; the format goes by the suffix.

    Raises:
        ImageError: it cannot be written, or there is no result.
    """
    pairs = [pair for job in jobs[:SHOWN] if (pair := _pair(job)) is not None]
    if not pairs:
        raise ImageError(f"cannot write {path}: there is no result to show")
    sheet = Image.new("RGB", _size(len(pairs)), "white")
    width, height = 2 * SIDE + 2 + GAP, SIDE + CAPTION + GAP
    for index, pair in enumerate(pairs):
        row, column = divmod(index, COLUMNS)
        sheet.paste(pair, (GAP + column * width, GAP + row * height))
    mark = Image.Exif()
    mark[ExifTags.Base.ImageDescription] = MARK
    write_pixels(path, np.asarray(sheet), exif=mark.tobytes())
    return path


def _is_sheet(path: Path) -> bool:
    """Whether `write_sheet` made it; a BMP has no place to say so."""
    exif = Image.Exif()
    try:
        exif.load(decode(path).exif or b"")
    except ImageError:
        return False
    return exif.get(ExifTags.Base.ImageDescription) == MARK


def _pair(job: Job) -> Image.Image | None:
    """Input and result under their name, or None where one cannot be read."""
    try:
        before, after = _small(job.source, job.frame), _small(job.target)
    except ImageError:
        return None
    pair = Image.new("RGB", (2 * SIDE + 2, SIDE + CAPTION), "white")
    pair.paste(before, (0, CAPTION))
    pair.paste(after, (before.width + 2, CAPTION))
    words = job.target.name.encode(errors="replace").decode()
    ImageDraw.Draw(pair).text((2, 3), words, fill="black", font=ImageFont.load_default(size=14))
    return pair


def _small(path: Path, frame: int = 0) -> Image.Image:
    """The whole picture within SIDE x SIDE; a smaller one is enlarged without smoothing."""
    pixels = (read_image(path, frame) * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    scale = SIDE / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize(size, kind)
