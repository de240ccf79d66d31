"""The noise of a picture: a function of the seed, its file name and its frame alone."""

from __future__ import annotations

import hashlib

import torch

from gdpo_sr.pipelines.noise_field import draw_seed
from gdpo_sr.restore.plan import Job


def noise_name(job: Job) -> str:
    """What a picture's noise depends on besides the seed."""
    return f"{job.source.name}/{job.frame}" if job.frame else job.source.name


def noise_source(seed: int, name: str) -> torch.Generator:
    """Generator seeded by `seed` and the file name alone: other pictures do not matter."""
    digest = hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def noise_seeds(seed: int, name: str, candidates: int) -> list[int]:
    """Seeds of a picture's noises; the first does not depend on how many there are."""
    rng = noise_source(seed, name)
    return [draw_seed(rng) for _ in range(candidates)]
