"""Restore the pictures of a plan: read ahead, batch, restore, choose, write, record."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gdpo_sr.generators.prompts import prompts_behind
from gdpo_sr.pipelines.noise_field import draw_seed
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline, RestoreOptions, RestoreReport
from gdpo_sr.restore import manifest
from gdpo_sr.restore.candidate_sink import CandidateSink, Finished, Score
from gdpo_sr.restore.plan import Job
from gdpo_sr.restore.threads import Writers, read_ahead
from gdpo_sr.types import ImageError
from gdpo_sr.utils.image_io import DEEP, WRITABLE, write_pixels
from gdpo_sr.utils.picture_modes import SourcePicture, load_picture
from gdpo_sr.utils.resample import Frame, frame_for

Loaded = tuple[Job, SourcePicture]
Tell = Callable[[Job, str | None], None]
"""Called once per job, with what went wrong or None."""


@dataclass(frozen=True)
class FolderOptions:
    """What to make of every picture; see `gdpo-sr inference --help`.

    `captions` holds a caption for each source, or nothing; the prompt is put behind it.
    """

    restore: RestoreOptions
    folder: Path
    seed: int = 0
    scale: float = 4
    size: tuple[int, int] | None = None
    long_side: int | None = None
    candidates: int = 1
    choice: str = "first"
    uncertainty: bool = False
    bit_depth: int | None = None
    quality: int = 95
    captions: Mapping[Path, str] = field(default_factory=dict)


@dataclass
class _Done:
    """A picture on its way to the file, with its line of the manifest."""

    job: Job
    record: dict[str, Any]


def restore_folder(
    jobs: Sequence[Job],
    pipe: OneStepSRPipeline,
    options: FolderOptions,
    tell: Tell,
    score: Score | None = None,
) -> None:
    """Restore and write every picture; one that fails is told and the others go on.

    Args:
        jobs: pictures of one size should follow each other where `batch_size` is above 1.
        pipe: the model.
        options: the same for all.
        tell: hears of each job in turn.
        score: chooses among candidates.
    """

    def written(done: _Done, error: ImageError | None) -> None:
        _record(options, tell, done.job, done.record, error)

    batch = options.restore.batch_size
    loaded = read_ahead(jobs, lambda job: load_picture(job.source), 2 * batch)

    def failed(job: Job, error: ImageError) -> None:
        _record(options, tell, job, {}, error)

    with Writers[_Done](2 * batch, written) as writers:
        for group in _groups(loaded, batch, failed, options.captions):
            _restore_group(group, pipe, options, writers, failed, score)


def _groups(
    loaded: Iterable[tuple[Job, SourcePicture | ImageError]],
    limit: int,
    failed: Callable[[Job, ImageError], None],
    captions: Mapping[Path, str],
) -> Iterator[list[Loaded]]:
    """Neighbours of one size and caption, at most `limit`; what cannot be read is told."""

    def kind(item: Loaded) -> tuple[tuple[int, ...], str | None]:
        return item[1].color.shape, captions.get(item[0].source)

    group: list[Loaded] = []
    for job, picture in loaded:
        if isinstance(picture, ImageError):
            failed(job, picture)
            continue
        item = (job, picture)
        if group and (len(group) == limit or kind(group[0]) != kind(item)):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _restore_group(
    group: list[Loaded],
    pipe: OneStepSRPipeline,
    options: FolderOptions,
    writers: Writers[_Done],
    failed: Callable[[Job, ImageError], None],
    score: Score | None,
) -> None:
    """Restore pictures together; if that fails, one by one, so that the good ones succeed."""
    started = time.monotonic()
    try:
        frame, sink, report = _restore(group, pipe, options)
    except ImageError as error:
        if len(group) == 1:
            failed(group[0][0], error)
            return
        for single in group:
            _restore_group([single], pipe, options, writers, failed, score)
        return
    for index, (job, picture) in enumerate(group):
        finished = sink.finished(index, score)
        seconds = (time.monotonic() - started) / len(group)
        record = _describe(picture, frame, finished, report, options.seed, seconds)
        writers.add(_Done(job, record), lambda j=job, f=finished: _write(j, f, options.quality))


def _restore(
    group: list[Loaded], pipe: OneStepSRPipeline, options: FolderOptions
) -> tuple[Frame, CandidateSink, RestoreReport]:
    pictures = [picture for _, picture in group]
    height, width = pictures[0].color.shape[-2:]
    frame = frame_for(height, width, options.scale, options.size, options.long_side)
    bits = [_bits(job, picture, options.bit_depth) for job, picture in group]
    sink = CandidateSink(
        pictures, frame, options.candidates, bits, options.choice, options.uncertainty
    )
    seeds = [noise_seeds(options.seed, job.source.name, options.candidates) for job, _ in group]
    colors = [picture.color for picture in pictures]
    restore = _with_caption(options, group[0][0].source, pipe.config.prompt)
    return frame, sink, pipe.restore_into(sink, colors, frame, seeds, restore)


def _with_caption(options: FolderOptions, source: Path, saved_prompt: str) -> RestoreOptions:
    """The options of one group: all of its pictures have the same caption."""
    if source not in options.captions:
        return options.restore
    words = saved_prompt if options.restore.prompt is None else options.restore.prompt
    [prompt] = prompts_behind([options.captions[source]], words)
    return replace(options.restore, prompt=prompt)


def noise_source(seed: int, name: str) -> torch.Generator:
    """Generator seeded by `seed` and the file name alone: other pictures do not matter."""
    digest = hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def noise_seeds(seed: int, name: str, candidates: int) -> list[int]:
    """Seeds of a picture's noises; the first does not depend on how many there are."""
    rng = noise_source(seed, name)
    return [draw_seed(rng) for _ in range(candidates)]


def _bits(job: Job, picture: SourcePicture, asked: int | None) -> int:
    """Those of the source where the format can hold them, unless others are asked for."""
    can_16 = WRITABLE[job.target.suffix] in DEEP
    return asked or (picture.bits if can_16 else 8)


def _write(job: Job, finished: Finished, quality: int) -> None:
    pixels = finished.pixels
    if WRITABLE[job.target.suffix] in ("JPEG", "BMP") and pixels.shape[2] in (2, 4):
        pixels = _on_white(pixels)
    if WRITABLE[job.target.suffix] == "WEBP" and pixels.shape[2] < 3:
        pixels = pixels[..., [0, 0, 0, 1][: pixels.shape[2] + 2]]
    if finished.heat_map is not None:
        write_pixels(job.heat_map, finished.heat_map)
    write_pixels(job.target, pixels, quality, finished.icc)


def _on_white(pixels: Any) -> Any:
    """(H, W, 1 or 3) uint8: what a format without alpha can show."""
    opacity = pixels[..., -1:].astype("float32") / 255
    return (pixels[..., :-1] * opacity + 255 * (1 - opacity)).round().astype("uint8")


def _describe(
    picture: SourcePicture,
    frame: Frame,
    finished: Finished,
    report: RestoreReport,
    seed: int,
    seconds: float,
) -> dict[str, Any]:
    height, width = picture.color.shape[-2:]
    rows, columns, channels = finished.pixels.shape
    return {
        "input": {"size": [width, height], "mode": picture.mode, "bits": picture.bits},
        "size": [columns, rows],
        "channels": channels,
        "bits": finished.pixels.itemsize * 8,
        "scale": frame.scale,
        "seed": seed,
        "candidate": finished.candidate,
        "metric": finished.score,
        "spread": finished.spread,
        "seconds": round(seconds, 3),
        **asdict(report),
    }


def _record(
    options: FolderOptions,
    tell: Tell,
    job: Job,
    record: dict[str, Any],
    error: ImageError | None,
) -> None:
    """The job's line in the manifest, then the caller's word."""
    problem = None if error is None else str(error)
    names = {"file": str(job.source), "output": str(job.target)}
    status = {"status": "failed", "error": problem} if problem else {"status": "done", **record}
    manifest.append(options.folder, {**names, **status})
    tell(job, problem)
