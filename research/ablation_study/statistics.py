"""Paired differences of runs, and what may be concluded from them.

Legend: S seeds, N photos; NaN where there is no score. Differences are in a metric's good
direction: more than 0 is better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with its 95 % interval.

    Attributes:
        mean, low, high: in the metric's units, better is positive.
    """

    mean: float
    low: float
    high: float

    @property
    def better(self) -> bool:
        """The whole interval is above 0."""
        return self.low > 0

    @property
    def worse(self) -> bool:
        """The whole interval is below 0."""
        return self.high < 0


def paired_difference(
    ours: np.ndarray, theirs: np.ndarray, lower_better: bool, resamples: int = RESAMPLES
) -> Difference:
    """Mean of ours - theirs in the good direction, resampling seeds and photos.

    Seeds and photos are drawn with replacement, independently (two-way bootstrap), because runs
    share the photos and photos share the runs. The draws are fixed. NaN with fewer than two photos.

    Args:
        ours: (S, N).
        theirs: (S, N), or (1, N) for something without seeds.
        lower_better: direction of the metric.
    """
    gaps = (theirs - ours) if lower_better else (ours - theirs)
    seeds, photos = gaps.shape
    finite = np.isfinite(gaps)
    if finite.any(axis=0).sum() < 2:
        return Difference(float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng(0)
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    columns = rng.multinomial(photos, np.full(photos, 1 / photos), size=resamples)
    totals = np.einsum("rs,sn,rn->r", rows, np.where(finite, gaps, 0), columns, optimize=True)
    counts = np.einsum("rs,sn,rn->r", rows, finite.astype(float), columns, optimize=True)
    means = totals[counts > 0] / counts[counts > 0]
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(gaps[finite].mean()), float(low), float(high))


def not_worse(differences: list[Difference]) -> str:
    """What differences in several metrics say of "this one loses nothing"."""
    if any(d.worse for d in differences):
        return "does not hold"
    return "no significant loss"


def verdict(net: list[Difference]) -> str:
    """What differences in several metrics say of "this one is better"."""
    if all(d.better for d in net):
        return "holds"
    if any(d.worse for d in net) and not any(d.better for d in net):
        return "does not hold"
    if any(d.worse for d in net):
        return "holds for some metrics, is reversed for others"
    if any(d.better for d in net):
        return "holds for some metrics, undecided for others"
    return "undecided"
