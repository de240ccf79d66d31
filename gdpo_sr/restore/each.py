"""Making pictures one after the other, for commands that need no batches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm

from gdpo_sr.restore.plan import Job
from gdpo_sr.types import ImageError
from gdpo_sr.utils.image_io import read_image, write_image


def write_each(jobs: Sequence[Job], make: Callable[[Job, torch.Tensor], torch.Tensor]) -> int:
    """Write `make(job, picture)` of every picture, (3, H, W) in [0, 1].

    A picture that cannot be read, made or written is told at the end, and the others go on.

    Returns:
        Exit status: 1 if one failed.
    """
    problems = []
    for job in tqdm(jobs, unit="picture"):
        try:
            write_image(job.target, make(job, read_image(job.source)))
        except ImageError as error:
            named = str(job.source) in str(error) or str(job.target) in str(error)
            problems.append(str(error) if named else f"{job.source}: {error}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0
