"""Which pictures a folder holds; links to folders are followed, each real folder once."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from gdpo_sr.types import DatasetError
from gdpo_sr.utils.picture_file import OTHER_SUFFIXES, SUFFIXES
from gdpo_sr.utils.text import printable


def list_images(source: str | os.PathLike[str], recursive: bool = False) -> list[Path]:
    """Pictures of a folder, by suffix and sorted by path; a file gives itself. Hidden files and,
    with `recursive`, hidden folders are left out; so are pictures of kinds that are not read, such
    as HEIC, which is said once.

    Raises:
        DatasetError: `source` is empty, does not exist, cannot be looked into or holds no picture.
    """
    if not os.fspath(source):
        raise DatasetError("an empty path was given; give the path of a picture or of a folder")
    source = Path(source)
    if os.path.isfile(source):
        return [source]
    if not os.path.isdir(source):
        raise DatasetError(
            f"no such file or folder: {source}; give the path of a picture or of a folder"
        )
    files = list(_files(source, recursive))
    images, others = sorted(filter(is_picture, files)), _others(files)
    if not images:
        raise DatasetError(
            f"no picture in the folder {source}{others and f' but {others}'}; put PNG, JPEG, WebP, "
            "... files into it"
        )
    if others:
        _say_once(f"note: {source}: {others} left out; save them as PNG or JPEG")
    return images


def _others(files: Sequence[Path]) -> str:
    """How many pictures are of kinds that are not read; empty where there is none."""
    suffixes = [path.suffix.lower() for path in files if not path.name.startswith(".")]
    found = [suffix for suffix in suffixes if suffix in OTHER_SUFFIXES]
    kinds = ", ".join(sorted(set(found)))
    return f"{len(found)} of kinds that are not read ({kinds})" if found else ""


@cache
def _say_once(text: str) -> None:
    print(printable(text), file=sys.stderr)


def matching_images(pattern: str) -> tuple[Path, list[Path]]:
    """The folder in front of the first wildcard, and the pictures that fit the pattern.

    Raises:
        DatasetError: there is none.
    """
    parts = Path(pattern).parts
    places = [Path(*parts[:index]) for index in range(len(parts))]
    plain = max(index for index, place in enumerate(places) if place.exists())  # a[1]/*.png
    root = places[plain]
    if "**" in parts:  # glob itself would go round in circles of links
        found = (p for p in _files(root, True) if _fits(p.relative_to(root).parts, parts[plain:]))
    else:
        found = (root / name for name in glob.iglob(str(Path(*parts[plain:])), root_dir=root))
    pictures = sorted(path for path in found if is_picture(path))
    if not pictures:
        raise DatasetError(f"no picture fits the pattern {pattern}; check it, and put it in quotes")
    return root, pictures


def is_picture(path: Path) -> bool:
    """Whether the suffix is one that can be read; hidden files are none."""
    return (
        path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and os.path.isfile(path)
    )


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path fits part by part; `**` stands for any number of folders."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_fits(path[skip:], pattern[1:]) for skip in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


def _files(folder: Path, recursive: bool) -> Iterator[Path]:
    """Links come last, so that what they lead to keeps its own path."""
    seen: set[str] = set()
    waiting = [os.fspath(folder)]
    while waiting:
        for root, folders, names in os.walk(waiting.pop(0), onerror=_complain):
            real = os.path.realpath(root)
            visible = sorted(name for name in folders if not name.startswith("."))
            folders[:] = visible if recursive and real not in seen else []
            waiting += [path for f in folders if os.path.islink(path := os.path.join(root, f))]
            if real not in seen:
                yield from (Path(root) / name for name in names)
            seen.add(real)


def _complain(error: OSError) -> None:
    raise DatasetError(
        f"cannot look into the folder {error.filename}: {error.strerror}; change its permissions"
    )
