"""Which folders are which method and run, and which pictures belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gdpo_sr.evaluation.results import in_order, natural_key, shorten
from gdpo_sr.types import DatasetError, OptionError
from gdpo_sr.utils.image_io import list_images

Sources = dict[str, list[Path]]
"""Folders (or single pictures) of each method, one per run."""


def read_inputs(inputs: Sequence[str]) -> tuple[Sources, list[Path]]:
    """Methods with their runs, and files of saved scores, from the values of `-i`.

    A value is a folder, a picture, NAME=folder, or a .json file of scores. A folder without a name
    is called after itself. Runs of one method: one NAME given several times, or a folder that holds
    no picture and sub-folders that do. The order of the values does not matter.

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
        sources.setdefault(name, []).extend(_runs(path))
    for name, runs in sources.items():
        _check_distinct(name, runs)
        runs.sort(key=lambda run: natural_key(str(run)))
    return in_order(sources), sorted(saved)


def match_names(
    sources: Sources, ground_truth: str | None
) -> tuple[dict[str, list[dict[str, Path]]], dict[str, Path]]:
    """Pictures of every run, and of the ground truth, by name (the stem), all with equal names.

    Raises:
        DatasetError: a stem that occurs twice, or a name that some folder lacks; all are listed.
    """
    if ground_truth and Path(ground_truth).is_file():
        name = Path(ground_truth).stem
        single = {m: [{name: run} for run in runs] for m, runs in sources.items()}
        if all(run.is_file() for runs in sources.values() for run in runs):
            return single, {name: Path(ground_truth)}
    found = {method: [_by_stem(run) for run in runs] for method, runs in sources.items()}
    references = _by_stem(Path(ground_truth)) if ground_truth else {}
    folders = {
        str(run): pictures
        for method, runs in sources.items()
        for run, pictures in zip(runs, found[method], strict=True)
    }
    if ground_truth:
        folders[ground_truth] = references
    _check_complete(folders)
    return found, references


def _is_scores(value: str) -> bool:
    return value.endswith(".json") and Path(value).is_file()


def _split(value: str) -> tuple[str, Path, bool]:
    """(name, path, whether the name was given)."""
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


def _by_stem(source: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_images(source):
        if path.stem in found:
            raise DatasetError(
                f"{found[path.stem]} and {path} have the same stem; keep one of them"
            )
        found[path.stem] = path
    return in_order(found)


def _check_complete(folders: dict[str, dict[str, Path]]) -> None:
    everything = set().union(*folders.values())
    problems = []
    for folder in sorted(folders, key=natural_key):
        absent = sorted(everything - folders[folder].keys(), key=natural_key)
        if absent:
            problems.append(f"{folder} lacks {len(absent)} ({shorten(absent)})")
    if problems:
        raise DatasetError(
            f"names do not match: {'; '.join(problems)}; give pictures of one scene the same name"
        )
