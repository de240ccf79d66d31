"""Collect freely licensed photographs for training.

    python research/base/collect_photos.py photos --photos FOLDER --apart BENCH/realsr/HR
    python research/base/collect_photos.py photos --cache CACHE --download
    python research/base/collect_photos.py photos --cache CACHE --table_only --tile 0

**A folder** brings its own photos.csv. A photograph is taken as it is if its row states a free
licence and it is like none of datasets/example/val, of `--apart`, or of those before it. Result:
photos/train, and photos/held_out, every 20th by name, for choosing between recipes.

**Debian packages** (and Python wheels), by default those of `photos.csv` beside this file, are
taken from CACHE/archives (with --download first fetched by apt-get and pip) and unpacked below
CACHE. The pictures of the table are always taken: somebody has looked at them, and the eight of
split `val` are held out. Every other picture is left out if it is small, a drawing, grey, like one
that is taken already, without a free licence in its package's copyright file, or of split `none` in
the table (looked at and rejected). The third command gives the choice of the table alone, as whole
photographs.

Look at what a new package adds: paintings and renderings with grain pass as photographs.

Result: photos/train with tiles, photos/val with whole photographs, both at two sizes.

Beside them: photos/credits.csv with author, year, licence, source and path of every photograph;
photos/left_out.csv with every other picture and the reason. `credits.py` prints the former.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from photo_filters import Seen, fingerprint, open_picture, reason_against
from photo_folder import collect_folder
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

VALIDATION = Path(__file__).resolve().parents[2] / "datasets" / "example" / "val"


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
    if credit is None or credit.problem:
        return LeftOut(package.name, path, credit.problem if credit else "no licence found")
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
    """Choose and write everything; see the head of this file."""
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


def new_folder(out: Path) -> None:
    """Make `out`.

    Raises:
        DatasetError: it holds files of another run, which would be trained on too.
    """
    if any(path.is_file() for path in out.rglob("*")):
        raise DatasetError(f"{out}: not empty; give a new folder, so that no old photo stays in it")
    out.mkdir(parents=True, exist_ok=True)


def from_packages(args: argparse.Namespace) -> tuple[list[Photo], list[LeftOut]]:
    """What the command does with packages."""
    rows = read_table(args.table)
    names = list(dict.fromkeys([row["package"] for row in rows] + args.packages))
    if args.download:
        download(names, args.cache / "archives")
    packages = {name: unpack(name, args.cache) for name in names}
    return collect(rows, packages, args.out, args.tile, args.table_only)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="Collect freely licensed photographs.")
    add = parser.add_argument
    add("out", type=Path, help="new folder for photographs, credits.csv and left_out.csv")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--photos", type=Path, help="folder with photos.csv")
    source.add_argument("--cache", type=Path, help="folder of packages, CACHE/archives holds them")
    add("--apart", nargs="+", type=Path, default=[], help="--photos: take none that is like these")
    add("--packages", nargs="+", metavar="NAME", default=[], help="more; pip:NAME: wheel")
    add("--download", action="store_true", help="fetch missing packages by apt-get and pip")
    add("--table", type=Path, default=TABLE, help="default: photos.csv beside this file")
    add("--table_only", action="store_true", help="take the pictures of the table and no others")
    add("--tile", type=int, default=512, help="side of the tiles in px; 0: whole photos (512)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Collect the photographs; returns the exit status."""
    args = parse_arguments(argv)
    new_folder(args.out)
    if args.photos:
        photos, left = collect_folder(args.photos, args.out, [VALIDATION, *args.apart])
    else:
        photos, left = from_packages(args)
    for split, count in sorted(Counter(photo.split for photo in photos).items()):
        files = sum(photo.files for photo in photos if photo.split == split)
        print(f"{split}: {count} photographs, {files} files")
    print(f"left out: {len(left)} pictures, listed in {args.out / 'left_out.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
