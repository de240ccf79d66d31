"""Means over pictures and runs, best and worst of several noises, paired bootstrap intervals.

Legend: R runs (seeds) of one method, N pictures; NaN where there is no score.
"""

from __future__ import annotations

import numpy as np

RESAMPLES = 10_000
_CHUNK = 200  # resamples drawn at once: bounds the memory for thousands of pictures


def mean_over(scores: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of what is not NaN along `axis`, NaN where nothing is left."""
    finite = np.isfinite(scores)
    count = finite.sum(axis=axis)
    total = np.where(finite, scores, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def std_over_runs(run_means: np.ndarray) -> float:
    """Sample standard deviation of (R,) means, NaN with fewer than two of them."""
    finite = run_means[np.isfinite(run_means)]
    return float(finite.std(ddof=1)) if len(finite) > 1 else float("nan")


def best_mean_worst(scores: np.ndarray, lower_better: bool) -> tuple[float, float, float]:
    """Average over pictures of each one's best, mean and worst score among its R noises, (R, N).

    Best of R says what selecting among R noises could give; it is no fair figure of one output.
    """
    kept = scores[:, np.isfinite(scores).any(axis=0)]
    if kept.size == 0:
        return (float("nan"),) * 3
    low, high = np.nanmin(kept, axis=0), np.nanmax(kept, axis=0)
    best, worst = (low, high) if lower_better else (high, low)
    return float(best.mean()), float(mean_over(kept, 0).mean()), float(worst.mean())


def bootstrap_interval(differences: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of (N,) paired differences, by resampling the pictures.

    The draws are fixed (seed 0), so the same scores give the same interval. NaN with fewer than
    two pictures. Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    values = differences[np.isfinite(differences)]
    if len(values) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(0)
    means = [
        values[rng.integers(len(values), size=(_CHUNK, len(values)))].mean(axis=1)
        for _ in range(RESAMPLES // _CHUNK)
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)
