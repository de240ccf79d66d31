"""Restore the pictures of a plan: read ahead, batch, restore, choose, write, record."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gdpo_sr.pipelines.noise_field import draw_seed
from gdpo_sr.pipelines.restorer import Restorer, RestoreReport
from gdpo_sr.restore import manifest
from gdpo_sr.restore.candidate_sink import CandidateSink, Score
from gdpo_sr.restore.options import FolderOptions, with_caption
from gdpo_sr.restore.plan import Job
from gdpo_sr.restore.records import describe, made, names
from gdpo_sr.restore.threads import Writers, read_ahead
from gdpo_sr.restore.write_result import check_result_size, result_bits, write_result
from gdpo_sr.types import ImageError
from gdpo_sr.utils.picture_modes import SourcePicture, load_picture
from gdpo_sr.utils.resample import Frame, frame_for, too_large

Loaded = tuple[Job, SourcePicture]
Tell = Callable[[Job, str | None], None]
"""Called once per job, with what went wrong or None."""


@dataclass
class _Done:
    """A picture on its way to the file, with its line of the manifest."""

    job: Job
    record: dict[str, Any]


def restore_folder(
    jobs: Sequence[Job],
    restorer: Restorer,
    options: FolderOptions,
    tell: Tell,
    score: Score | None = None,
) -> None:
    """Restore and write every picture; one that fails is told and the others go on.

    Args:
        jobs: pictures of one size should follow each other where `batch_size` is above 1.
        restorer: the model.
        options: the same for all.
        tell: hears of each job in turn.
        score: chooses among candidates.
    """

    def written(done: _Done, error: ImageError | None) -> None:
        _record(options, tell, done.job, done.record, error)

    batch = options.restore.batch_size
    loaded = read_ahead(jobs, partial(_load, limit=options.max_pixels), 2 * batch)

    def failed(job: Job, error: ImageError) -> None:
        _record(options, tell, job, {}, error)

    with Writers[_Done](2 * batch, written) as writers:
        for group in _groups(loaded, batch, failed, options.captions):
            _restore_group(group, restorer, options, writers, failed, score)


def _load(job: Job, limit: int | None) -> SourcePicture:
    return load_picture(job.source, job.frame, limit)


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
    restorer: Restorer,
    options: FolderOptions,
    writers: Writers[_Done],
    failed: Callable[[Job, ImageError], None],
    score: Score | None,
) -> None:
    """Restore pictures together; if that fails, one by one, so that the good ones succeed."""
    started = time.monotonic()
    try:
        frame, sink, report = _restore(group, restorer, options)
    except ImageError as error:
        if len(group) == 1:
            failed(group[0][0], error)
            return
        for single in group:
            _restore_group([single], restorer, options, writers, failed, score)
        return
    for index, (job, picture) in enumerate(group):
        finished = sink.finished(index, score)
        seconds = (time.monotonic() - started) / len(group)
        record = describe(picture, frame, finished, report, seconds)
        record |= made(job, restorer, options)
        extras = (None, None) if options.strip else (picture.exif, picture.dpi)
        write = partial(write_result, job, finished, options.quality, *extras)
        writers.add(_Done(job, record), write)


def _restore(
    group: list[Loaded], restorer: Restorer, options: FolderOptions
) -> tuple[Frame, CandidateSink, RestoreReport]:
    pictures = [picture for _, picture in group]
    height, width = pictures[0].color.shape[-2:]
    frame = frame_for(height, width, options.scale, options.size, options.long_side)
    bits = [result_bits(job, picture, options.bit_depth) for job, picture in group]
    for (job, picture), depth in zip(group, bits, strict=True):
        check_result_size(job, picture, frame, depth)
    try:
        sink = CandidateSink(
            pictures, frame, options.candidates, bits, options.choice, options.uncertainty
        )
    except MemoryError as error:
        raise too_large(frame) from error
    seeds = [noise_seeds(options.seed, noise_name(job), options.candidates) for job, _ in group]
    colors = [picture.color for picture in pictures]
    restore = with_caption(options, group[0][0].source, restorer.generator.prompt)
    return frame, sink, restorer.restore_into(sink, colors, frame, seeds, restore)


def _record(
    options: FolderOptions,
    tell: Tell,
    job: Job,
    record: dict[str, Any],
    error: ImageError | None,
) -> None:
    """The job's line in the manifest, then the caller's word."""
    problem = None if error is None else str(error)
    status = {"status": "failed", "error": problem} if problem else {"status": "done", **record}
    manifest.append(options.folder, {**names(job, options), **status})
    tell(job, problem)


def noise_name(job: Job) -> str:
    """What a picture's noise depends on besides the seed."""
    return f"{job.source.name}/{job.frame}" if job.frame else job.source.name


def noise_seeds(seed: int, name: str, candidates: int) -> list[int]:
    """Seeds of a picture's noises, by `seed` and the file name alone: other pictures do not matter.
    The first does not depend on how many there are.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()
    rng = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return [draw_seed(rng) for _ in range(candidates)]
