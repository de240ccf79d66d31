"""What the manifest says about a picture that was restored."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gdpo_sr.pipelines.restorer import Restorer, RestoreReport
from gdpo_sr.restore.candidate_sink import Finished
from gdpo_sr.restore.options import FolderOptions, with_caption
from gdpo_sr.restore.plan import Job
from gdpo_sr.restore.settings import for_picture, place_of
from gdpo_sr.utils.picture_modes import SourcePicture
from gdpo_sr.utils.resample import Frame


def names(job: Job, options: FolderOptions) -> dict[str, Any]:
    """Which file became which."""
    found: dict[str, Any] = {"file": str(job.source), "output": str(job.target)}
    found["place"] = place_of(job.target, options.folder)
    if job.heat_map:
        found["map"] = place_of(job.heat_map, options.folder)
    return {**found, "frame": job.frame} if job.frame else found


def describe(
    picture: SourcePicture,
    frame: Frame,
    finished: Finished,
    report: RestoreReport,
    seconds: float,
) -> dict[str, Any]:
    """Kind and size of what went in and came out."""
    height, width = picture.color.shape[-2:]
    rows, columns, channels = finished.pixels.shape
    return {
        "input": {"size": [width, height], "mode": picture.mode, "bits": picture.bits},
        "size": [columns, rows],
        "channels": channels,
        "bits": finished.pixels.itemsize * 8,
        "scale": frame.scale,
        "candidate": finished.candidate,
        "metric": finished.score,
        "spread": finished.spread,
        "seconds": round(seconds, 3),
        **asdict(report),
    }


def made(job: Job, restorer: Restorer, options: FolderOptions) -> dict[str, Any]:
    """What made the picture: as it was asked for, and the values that were left to the model."""
    restore = with_caption(options, job.source, restorer.generator.prompt)
    t_add = restorer.generator.scheduler.config.t_add if restore.t_add is None else restore.t_add
    return {
        "seed": options.seed,
        "t_add": t_add,
        "prompt": restorer.generator.prompt if restore.prompt is None else restore.prompt,
        "color_fix": restore.color_fix,
        "made_by": for_picture(options.settings, job.source, options.captions.get(job.source)),
    }
