"""Which file becomes which: a picture, folder, tree or glob pattern in, the same tree out."""

from __future__ import annotations

import glob
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gdpo_sr.types import DatasetError, ImageError, OptionError
from gdpo_sr.utils.image_decode import frame_count, image_size
from gdpo_sr.utils.picture_folder import list_images, matching_images
from gdpo_sr.utils.picture_formats import WRITABLE
from gdpo_sr.writer import output_folder

UNCERTAINTY = "uncertainty"  # folder of the heat maps, inside the output folder


@dataclass(frozen=True)
class Job:
    """One picture to make: frame `frame` of `source` -> `target`, its heat map if wanted."""

    source: Path
    target: Path
    heat_map: Path | None = None
    frame: int = 0


@dataclass(frozen=True)
class Naming:
    """How results are called.

    Attributes:
        suffix: such as ``.png``; empty takes that of the source where it can be written, else
            ``.png``.
        ending: behind the stem, such as ``_x4``.
        keep_both: sources that differ in their suffix alone get results that say it, ``a_jpg.png``
            and ``a_png.png``; without it they are refused.
        all_frames: every page and frame, as ``a_0001.png``, and not the first alone.
        heat_maps: results have heat maps.
    """

    suffix: str = ".png"
    ending: str = ""
    keep_both: bool = False
    all_frames: bool = False
    heat_maps: bool = False


def plan(
    sources: Sequence[str], output: str, naming: Naming | None = None, recursive: bool = False
) -> list[Job]:
    """Jobs for every picture of `sources`, sorted by path; nothing is written.

    Args:
        sources: pictures, folders or patterns such as ``photos/**/*.jpg``.
        output: folder of the results; those of a folder or pattern keep their subfolders. Pictures
            below `output` are left out, so that results are not restored again.
        naming: of the results.
        recursive: look into subfolders of folders.

    Raises:
        DatasetError: no picture, or two with one target.
        OptionError: `output` cannot be a folder, or a result would replace a source or lie outside.
    """
    folder, naming = output_folder(output), naming or Naming()
    found = dict(_found(sources, folder, recursive))
    jobs = [job for path, place in found.items() for job in _jobs(path, folder, place, naming)]
    if naming.keep_both:
        jobs = _told_apart(jobs, naming)
    _check_distinct(jobs)
    _check_places(jobs, folder)
    _check_other_folder(sources, folder)
    return jobs


def by_size(jobs: Sequence[Job]) -> list[Job]:
    """Pictures of one size next to each other; those that cannot be read come first."""

    def size(job: Job) -> tuple[int, int]:
        try:
            return image_size(job.source, job.frame)
        except ImageError:
            return (0, 0)

    return sorted(jobs, key=size)


def _jobs(path: Path, folder: Path, place: Path, naming: Naming) -> Iterator[Job]:
    """The jobs of one source that lies at `place` in its tree."""
    own = path.suffix.lower() if path.suffix.lower() in WRITABLE else ".png"
    suffix = naming.suffix or own
    for frame in range(_frames(path) if naming.all_frames else 1):
        number = f"_{frame + 1:04d}" if naming.all_frames and _frames(path) > 1 else ""
        inner = place.with_name(f"{place.stem}{number}{naming.ending}{suffix}")
        heat_map = folder / UNCERTAINTY / inner.with_suffix(".png") if naming.heat_maps else None
        yield Job(path, folder / inner, heat_map, frame)


def _frames(path: Path) -> int:
    try:
        return frame_count(path)
    except ImageError:
        return 1  # it fails by itself later on


def _told_apart(jobs: list[Job], naming: Naming) -> list[Job]:
    """Jobs of one target get their sources' suffix into the name, and so do their heat maps."""
    return [
        job if len(group) == 1 else _with_source_suffix(job, naming)
        for group in _by_target(jobs).values()
        for job in group
    ]


def _with_source_suffix(job: Job, naming: Naming) -> Job:
    stem, kind = job.target.stem.removesuffix(naming.ending), job.source.suffix[1:]
    name = f"{stem}_{kind}{naming.ending}"
    heat_map = job.heat_map and job.heat_map.with_name(f"{name}.png")
    return replace(job, target=job.target.with_name(name + job.target.suffix), heat_map=heat_map)


def _by_target(jobs: list[Job]) -> dict[Path, list[Job]]:
    groups: dict[Path, list[Job]] = defaultdict(list)
    for job in jobs:
        groups[job.target].append(job)
    return groups


def _check_distinct(jobs: list[Job]) -> None:
    """No two files of one name, heat maps included."""
    for target, group in _by_target(jobs).items():
        if len(group) > 1:
            raise DatasetError(
                f"{group[0].source} and {group[1].source} would both become {target}; "
                "rename one of them"
            )
    targets = {job.target: job.source for job in jobs}
    for job in jobs:
        if job.heat_map in targets:
            raise DatasetError(
                f"{job.heat_map} would be the result of {targets[job.heat_map]} and the map of "
                f"{job.source}; rename the folder '{UNCERTAINTY}' of the input"
            )


def _check_places(jobs: list[Job], folder: Path) -> None:
    """No source is replaced, and no link leads a result out of the folder."""
    sources = {os.path.realpath(job.source) for job in jobs}
    root = os.path.realpath(folder)
    for path in (path for job in jobs for path in (job.target, job.heat_map) if path):
        if os.path.realpath(path) in sources:
            raise OptionError(f"-o {folder}: {path} is an input; choose another output folder")
        if os.path.commonpath([root, os.path.realpath(path.parent)]) != root:
            raise OptionError(f"-o {folder}: {path.parent} is a link to elsewhere; remove the link")
        if path.is_dir():
            raise OptionError(f"-o {folder}: {path} is a folder, and would be a result; move it")
        output_folder(str(path.parent))


def _check_other_folder(sources: Sequence[str], folder: Path) -> None:
    """Results among their sources would be sources of the next run."""
    for source in sources:
        if os.path.isdir(source) and os.path.realpath(source) == os.path.realpath(folder):
            raise OptionError(f"-o {folder}: this is the input folder; choose another")


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
        return matching_images(source)
    images = list_images(source, recursive)
    path = Path(source)
    return (path if path.is_dir() else path.parent), images
