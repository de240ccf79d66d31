"""Which folders are which method and run, and which pictures belong together."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gdpo_sr.evaluation.results import in_order, natural_key, shorten
from gdpo_sr.restore import manifest
from gdpo_sr.restore.plan import UNCERTAINTY
from gdpo_sr.types import DatasetError, OptionError
from gdpo_sr.utils.image_io import list_images
from gdpo_sr.utils.text import printable

Sources = dict[str, list[Path]]
"""Folders (or single pictures) of each method, one per run."""
Names = dict[str, Path]
"""Pictures of a folder by their place in it, without the suffix."""


@dataclass(frozen=True)
class Matching:
    """Which pictures belong together.

    Attributes:
        recursive: folders are trees, and a name is a place in the tree.
        allow_missing: what some folder lacks is left out, and not an error.
    """

    recursive: bool = False
    allow_missing: bool = False


def read_inputs(inputs: Sequence[str], recursive: bool = False) -> tuple[Sources, list[Path]]:
    """Methods with their runs, and files of saved scores, from the values of `-i`.

    A value is a folder, a picture, NAME=folder, or a .json file of scores. A folder without a name
    is called after itself. Runs of one method: one NAME given several times, or a folder that holds
    no picture and sub-folders that do (with `recursive` that is a tree of one run). The order of
    the values does not matter.

    Raises:
        OptionError: two folders that would share a name by chance, or one folder twice.
        DatasetError: a folder without pictures.
    """
    saved = [Path(value) for value in inputs if _is_scores(value)]
    sources: Sources = {}
    unnamed: dict[str, Path] = {}
    for name, path, is_named in map(_split, (v for v in inputs if not _is_scores(v))):
        if (not is_named and name in sources) or name in unnamed:
            raise OptionError(
                f"-i: two folders are called '{name}'; give names, -i NAME={path} ... (the same"
                " NAME again for runs of one method)"
            )
        if not is_named:
            unnamed[name] = path
        sources.setdefault(name, []).extend([path] if recursive else _runs(path))
    for name, runs in sources.items():
        _check_distinct(name, runs)
        runs.sort(key=lambda run: natural_key(str(run)))
    return in_order(sources), sorted(saved)


def match_names(
    sources: Sources, ground_truth: str | None, matching: Matching
) -> tuple[dict[str, list[Names]], Names, list[str]]:
    """Pictures of every run, and of the ground truth, all with equal names, and names left out.

    An ending that all names of a folder have beyond those of the ground truth, such as ``_x4``, is
    taken away, and said.

    Raises:
        DatasetError: a name that occurs twice, or one that some folder lacks; all are listed.
    """
    if ground_truth and Path(ground_truth).is_file():
        name = Path(ground_truth).stem
        single = {m: [{name: run} for run in runs] for m, runs in sources.items()}
        if all(run.is_file() for runs in sources.values() for run in runs):
            return single, {name: Path(ground_truth)}, []
    references = _by_name(Path(ground_truth), matching) if ground_truth else {}
    found = {
        method: [_without_ending(run, _by_name(run, matching), references) for run in runs]
        for method, runs in sources.items()
    }
    folders = {
        str(run): pictures
        for method, runs in sources.items()
        for run, pictures in zip(runs, found[method], strict=True)
    }
    if ground_truth:
        folders[ground_truth] = references
    shared = set.intersection(*(set(names) for names in folders.values()))
    left_out = sorted(set().union(*folders.values()) - shared, key=natural_key)
    if left_out and not (matching.allow_missing and shared):
        raise DatasetError(_mismatch(folders))
    kept = {method: [_only(names, shared) for names in runs] for method, runs in found.items()}
    return kept, _only(references, shared), left_out


def _is_scores(value: str) -> bool:
    return value.endswith(".json") and Path(value).is_file()


def _split(value: str) -> tuple[str, Path, bool]:
    """(name, path, whether the name was given)."""
    if not value:
        raise DatasetError("-i: an empty path was given; give the path of a picture or a folder")
    name, sign, rest = value.partition("=")
    if sign and name and rest and "/" not in name and not Path(value).exists():
        return name, Path(rest), True
    path = Path(value)
    return (path.stem if path.is_file() else path.resolve().name), path, False


def _runs(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    try:
        list_images(path)
        return [path]
    except DatasetError:
        runs = [p for p in _subfolders(path) if _has_pictures(p)]
        if not runs:
            raise
        return runs


def _subfolders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]


def _has_pictures(folder: Path) -> bool:
    try:
        return bool(list_images(folder))
    except DatasetError:
        return False


def _check_distinct(name: str, runs: list[Path]) -> None:
    real = [run.resolve() for run in runs]
    twice = [str(run) for run, path in zip(runs, real, strict=True) if real.count(path) > 1]
    if twice:
        raise OptionError(f"-i: '{name}' has the folder {twice[0]} twice; give each run once")


def _by_name(source: Path, matching: Matching) -> Names:
    found: Names = {}
    for path in list_images(source, matching.recursive):
        place = path.relative_to(source) if source.is_dir() else Path(path.name)
        name = place.with_suffix("").as_posix()
        if _is_heat_map(source, place):
            continue
        if name in found:
            raise DatasetError(f"{found[name]} and {path} have the same stem; keep one of them")
        found[name] = path
    return in_order(found)


def _is_heat_map(source: Path, place: Path) -> bool:
    """Whether `inference.py --uncertainty` wrote it beside the results."""
    return place.parts[0] == UNCERTAINTY and (source / manifest.NAME).is_file()


def _without_ending(folder: Path, names: Names, references: Names) -> Names:
    """The names without the ending that they have beyond all of `references`, if there is one."""
    ending = _common_ending(names, references)
    if not ending:
        return names
    print(f"{folder}: names without their ending '{printable(ending)}'", file=sys.stderr)
    return in_order({name.removesuffix(ending): path for name, path in names.items()})


def _common_ending(names: Iterable[str], references: Iterable[str]) -> str:
    """What all names have beyond a reference; empty where some are equal to one as they are."""
    names, known = list(names), set(references)
    if not known or known.intersection(names):
        return ""
    starts = ((name, start) for name in names for start in known if name.startswith(start))
    endings = {name[len(start) :] for name, start in starts}
    fitting = [e for e in endings if all(name.endswith(e) for name in names)]
    return min(fitting, key=len, default="")


def _only(names: Names, shared: set[str]) -> Names:
    return {name: path for name, path in names.items() if name in shared}


def _mismatch(folders: dict[str, Names]) -> str:
    everything = set().union(*folders.values())
    problems = []
    for folder in sorted(folders, key=natural_key):
        absent = sorted(everything - folders[folder].keys(), key=natural_key)
        if absent:
            problems.append(f"{folder} lacks {len(absent)} ({shorten(absent)})")
    return (
        f"names do not match: {'; '.join(problems)}; give pictures of one scene the same name, or "
        "leave out what is not in all folders by --allow_missing"
    )
