"""Photographs of a folder that brings its own table: photos.csv beside the pictures.

Columns: file, source, path, author, licence, licence_source; others are not looked at. Files are
taken as they are. Every 20th by name is held out of the training, for choosing between recipes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from photo_filters import Seen, fingerprint, open_picture
from photo_licences import Credit
from photo_table import LeftOut, Photo, read_table, write_table
from tqdm import tqdm

from gdpo_sr.types import DatasetError, ImageError
from gdpo_sr.utils.image_io import list_images

COLUMNS = ("file", "source", "path", "author", "licence", "licence_source")
HELD_OUT_EVERY = 20
TRAIN, HELD_OUT = "train", "held_out"

Row = dict[str, str]


def read_rows(folder: Path) -> list[Row]:
    """Rows of FOLDER/photos.csv by file name.

    Raises:
        DatasetError: no such file, a column is missing, or a file is named twice.
    """
    table = folder / "photos.csv"
    if not table.is_file():
        raise DatasetError(f"{table}: no such file; it states author and licence of each")
    rows = read_table(table)
    if missing := [name for name in COLUMNS if rows and name not in rows[0]]:
        raise DatasetError(f"{table}: no column {', '.join(missing)}; wanted: {', '.join(COLUMNS)}")
    names = [row["file"] for row in rows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise DatasetError(f"{table}: {min(twice)} stands in two rows; keep one")
    return sorted(rows, key=lambda row: row["file"])


def judge(row: Row, folder: Path, seen: Seen) -> str:
    """Why a picture may not be taken, or ""; one that may is remembered in `seen`."""
    credit = Credit(row["author"], "", row["licence"], row["licence_source"])
    if credit.problem:
        return credit.problem
    if Path(row["file"]).name != row["file"]:
        return "not a file name"
    try:
        mark = fingerprint(open_picture(folder / row["file"]))
    except ImageError as error:
        return str(error)
    if twin := seen.twin(mark):
        return f"like {twin}"
    seen.add(mark, row["file"])
    return ""


def choose(folder: Path, apart: Iterable[Path]) -> tuple[list[Photo], list[LeftOut]]:
    """What is taken of a folder, in the order of names, and what is not.

    Args:
        folder: pictures and photos.csv.
        apart: folders of pictures that no training may see, nor a picture like them.
    """
    seen = Seen()
    for path in (path for other in apart for path in list_images(other)):
        seen.add(fingerprint(open_picture(path)), f"{path.parent.name}/{path.name}")
    rows = read_rows(folder)
    reasons = {
        row["file"]: judge(row, folder, seen) for row in tqdm(rows, desc="photos", unit="photo")
    }
    left = [LeftOut(row["source"], row["file"], reasons[row["file"]]) for row in rows]
    left += [LeftOut("", name, "no row in photos.csv") for name in _without_row(folder, reasons)]
    numbered = enumerate(rows)  # who is held out does not hang on who is left out
    photos = [photo_of_row(row, index) for index, row in numbered if not reasons[row["file"]]]
    return photos, [item for item in left if item.reason]


def _without_row(folder: Path, known: Iterable[str]) -> Iterator[str]:
    names = set(known)
    return (path.name for path in list_images(folder) if path.name not in names)


def photo_of_row(row: Row, index: int) -> Photo:
    """The row in credits.csv of photograph number `index` of the table."""
    split = HELD_OUT if index % HELD_OUT_EVERY == 0 else TRAIN
    said = (row["author"], "", row["licence"], row["licence_source"])
    return Photo(Path(row["file"]).stem, split, row["source"], "", row["path"], *said, 1)


def collect_folder(
    folder: Path, out: Path, apart: Iterable[Path]
) -> tuple[list[Photo], list[LeftOut]]:
    """Copy what may be taken to OUT/train and OUT/held_out, and write the two tables.

    Raises:
        DatasetError: a wrong table, or nothing may be taken.
    """
    photos, left = choose(folder, apart)
    if not photos:
        raise DatasetError(f"{folder}: none of {len(left)} pictures may be taken: {left[0].reason}")
    suffixes = {Path(row["file"]).stem: Path(row["file"]).suffix for row in read_rows(folder)}
    for photo in photos:
        target = out / photo.split / f"{photo.stem}{suffixes[photo.stem]}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / target.name, target)
    write_table(out / "credits.csv", Photo, photos)
    write_table(out / "left_out.csv", LeftOut, left)
    return photos, left
