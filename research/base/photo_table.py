"""The tables of the photo collection: what somebody chose, what was taken, what was left out."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath

from photo_licences import Credit
from photo_packages import Package

from gdpo_sr.types import DatasetError

TABLE = Path(__file__).with_name("photos.csv")
REJECTED = "none"  # split of a picture that somebody has looked at and turned down


@dataclass(frozen=True)
class Photo:
    """A picture that is taken, and its row in credits.csv."""

    stem: str
    split: str
    package: str
    version: str
    path: str
    author: str
    year: str
    licence: str
    licence_stated_by: str
    files: int = 0


@dataclass(frozen=True)
class LeftOut:
    """A picture that is not taken."""

    package: str
    path: str
    reason: str


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of the table: package, path, stem, author, year, licence, split."""
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def write_table(path: Path, kind: type, rows: Sequence[Photo | LeftOut]) -> None:
    """Write rows as CSV through a temporary name."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, [field.name for field in fields(kind)])
        writer.writeheader()
        writer.writerows(map(asdict, rows))
    os.replace(temporary, path)


def photos_of_table(rows: list[dict[str, str]], packages: dict[str, Package]) -> list[Photo]:
    """Those of the table that are to be taken, validation first.

    Raises:
        DatasetError: a package holds no such file, as another version of it may.
    """
    found = []
    for row in sorted(rows, key=lambda row: row["split"] != "val"):
        if row["split"] == REJECTED:
            continue
        package = packages[row["package"]]
        if not (package.folder / row["path"]).is_file():
            raise DatasetError(
                f"{row['package']} {package.version}: no {row['path']} in it; use the version "
                "named in datasets/README.md, or take the row out of the table"
            )
        credit = Credit(row["author"], row["year"], row["licence"], "table")
        found.append(photo_of(row["stem"], row["split"], package, row["path"], credit))
    return found


def photo_of(stem: str, split: str, package: Package, path: str, credit: Credit) -> Photo:
    """A picture that is taken, before it is written."""
    said = (credit.author, credit.year, credit.licence, credit.stated_by)
    return Photo(stem, split, package.name, package.version, path, *said)


def stem_of(package: str, path: str) -> str:
    """A file name of its own, the same in every run."""
    words = re.sub(r"[^a-z0-9]+", "_", PurePosixPath(path).stem.lower()).strip("_")
    return f"{words[:32]}_{hashlib.sha256(f'{package}/{path}'.encode()).hexdigest()[:6]}"
