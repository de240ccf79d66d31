"""Learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from gdpo_sr.config.run_options import RunOptions


def learning_rate_of(train: RunOptions) -> Callable[[int], float]:
    """Learning rate at a step, relative to the full one, as the options say."""
    return partial(
        learning_rate_factor,
        total=train.total_iter,
        warmup=train.scheduler.warmup_iter,
        kind=train.scheduler.type,
        floor=train.scheduler.eta_min / train.optim_g.lr,
    )


def learning_rate_factor(step: int, total: int, warmup: int, kind: str, floor: float) -> float:
    """Learning rate at `step`, relative to the full one: linear warm-up, then constant or cosine
    down to `floor`.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if kind == "constant":
        return 1.0
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
