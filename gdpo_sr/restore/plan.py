"""Which file becomes which: a picture, folder, tree or glob pattern in, the same tree out."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gdpo_sr.types import DatasetError, ImageError, OptionError
from gdpo_sr.utils.image_io import image_size, is_picture, list_images

UNCERTAINTY = "uncertainty"  # folder of the heat maps, inside the output folder


@dataclass(frozen=True)
class Job:
    """One picture to restore: `source` -> `target`, its heat map if wanted -> `heat_map`."""

    source: Path
    target: Path
    heat_map: Path


def plan(sources: Sequence[str], output: str, suffix: str, recursive: bool = False) -> list[Job]:
    """Jobs for every picture of `sources`, sorted by path.

    Args:
        sources: pictures, folders or patterns such as ``photos/**/*.jpg``.
        output: folder of the results; those of a folder or pattern keep their subfolders. Pictures
            below `output` are left out, so that results are not restored again.
        suffix: of the results, such as ``.png``.
        recursive: look into subfolders of folders.

    Raises:
        DatasetError: no picture, or two with one target.
        OptionError: `output` cannot be a folder, or a result would replace a source.
    """
    folder = Path(output)
    _check_writable(folder)
    jobs: dict[Path, Job] = {}
    for path, relative in _found(sources, folder, recursive):
        inner = relative.with_name(f"{relative.stem}{suffix}")
        job = Job(path, folder / inner, folder / UNCERTAINTY / inner.with_suffix(".png"))
        other = jobs.setdefault(job.target, job)
        if other.source != path:
            raise DatasetError(
                f"{other.source} and {path} would both become {job.target}; rename one of them"
            )
        if job.target.exists() and job.target.samefile(path):
            raise OptionError(
                f"-o {output}: {job.target} is an input; choose another output folder"
            )
    return list(jobs.values())


def without_finished(jobs: Sequence[Job]) -> list[Job]:
    """The jobs whose results do not exist yet."""
    return [job for job in jobs if not job.target.exists()]


def by_size(jobs: Sequence[Job]) -> list[Job]:
    """Pictures of one size next to each other; those that cannot be read come first."""

    def size(job: Job) -> tuple[int, int]:
        try:
            return image_size(job.source)
        except ImageError:
            return (0, 0)

    return sorted(jobs, key=size)


def _found(sources: Sequence[str], folder: Path, recursive: bool) -> Iterator[tuple[Path, Path]]:
    """Pictures, and where they lie in the tree that they were found in."""
    for source in sources:
        root, paths = _expand(source, recursive)
        results = folder.resolve()
        inside = root.resolve() in results.parents
        kept = [path for path in paths if not (inside and results in path.resolve().parents)]
        if not kept:
            raise DatasetError(f"no picture in {source} but results; give another -i or -o")
        yield from ((path, path.relative_to(root)) for path in kept)


def _expand(source: str, recursive: bool) -> tuple[Path, list[Path]]:
    """The folder that relative places count from, and the pictures."""
    if glob.has_magic(source) and not os.path.exists(source):
        return _matches(source)
    path = Path(source)
    return (path if path.is_dir() else path.parent), list_images(path, recursive)


def _matches(pattern: str) -> tuple[Path, list[Path]]:
    parts = Path(pattern).parts
    plain = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    pictures = [path for path in paths if is_picture(path)]
    if not pictures:
        raise DatasetError(f"no picture fits the pattern {pattern}; check it, and put it in quotes")
    return Path(*parts[:plain]), pictures


def _check_writable(folder: Path) -> None:
    """Nothing is made yet: the folder appears with its first picture."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise OptionError(f"-o {folder}: {existing} is a file; give a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OptionError(f"-o {folder}: no permission to write in {existing}; give another folder")
