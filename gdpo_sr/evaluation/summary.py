"""The numbers of the tables: means, ranks, best of several noises, differences to a baseline."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gdpo_sr.evaluation.results import Evaluation, MetricInfo, number
from gdpo_sr.evaluation.statistics import (
    RESAMPLES,
    best_mean_worst,
    bootstrap_interval,
    mean_over,
    std_over_runs,
)
from gdpo_sr.types import OptionError

DIGITS = 4
"""Decimals of every table; two means that show the same decimals share a rank."""


@dataclass(frozen=True)
class Cell:
    """Mean of one method and metric.

    Attributes:
        mean: over pictures, of each picture's mean over runs; NaN if there is none.
        std: of the runs' means; NaN with one run.
        count: pictures with a score (runs with one, for a metric of sets).
        rank: 1 best, 2 second best of three or more methods, 0 other; equal figures share a rank.
    """

    mean: float
    std: float
    count: int
    rank: int = 0


@dataclass(frozen=True)
class Difference:
    """A method minus the baseline, on the pictures that both have a score of.

    Attributes:
        low, high: 95 % paired bootstrap interval of the mean difference.
        better_on: pictures on which the method is the better one, of `count`.
    """

    method: str
    metric: str
    mean: float
    low: float
    high: float
    better_on: int
    count: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def cells(evaluation: Evaluation, metric: MetricInfo) -> dict[str, Cell]:
    """A cell for every method."""
    found = {}
    for method in evaluation.methods:
        scores = evaluation.array(method, metric.name)
        per_picture = mean_over(scores, 0)
        count = int(np.isfinite(scores).sum() if metric.of_sets else np.isfinite(per_picture).sum())
        spread = std_over_runs(mean_over(scores, 1))
        found[method] = Cell(float(mean_over(per_picture)), spread, count)
    return _ranked(found, metric.lower_better)


def differences(evaluation: Evaluation, baseline: str) -> list[Difference]:
    """Every other method against `baseline`, metric by metric; metrics of sets have none."""
    found = []
    for metric in evaluation.metrics:
        if metric.missing or metric.of_sets:
            continue
        base = mean_over(evaluation.array(baseline, metric.name), 0)
        for method in evaluation.methods:
            if method != baseline:
                gap = mean_over(evaluation.array(method, metric.name), 0) - base
                found.append(_difference(method, metric, gap[np.isfinite(gap)]))
    return found


def noise_range(evaluation: Evaluation) -> dict[str, dict[str, tuple[float, float, float]]]:
    """(best, mean, worst) of the noises by method and metric, for methods with several runs."""
    return {
        method: {
            metric.name: best_mean_worst(evaluation.array(method, metric.name), metric.lower_better)
            for metric in evaluation.metrics
            if not (metric.missing or metric.of_sets)
        }
        for method, runs in evaluation.methods.items()
        if len(runs) > 1
    }


def choose_baseline(evaluation: Evaluation, name: str | None) -> str:
    """The named method, or the first in alphabetical order.

    Raises:
        OptionError: no such method.
    """
    methods = list(evaluation.methods)
    if name is not None and name not in methods:
        raise OptionError(f"--baseline {name}: no such method; there are {', '.join(methods)}")
    return name or methods[0]


def summary_record(evaluation: Evaluation, baseline: str) -> dict[str, Any]:
    """All of the above for the JSON file."""
    means: dict[str, Any] = {method: {} for method in evaluation.methods}
    for metric in evaluation.metrics:
        for method, cell in cells(evaluation, metric).items():
            means[method][metric.name] = {
                "mean": number(cell.mean),
                "std_over_runs": number(cell.std),
                "n": cell.count,
            }
    ranges = {
        method: {
            metric: dict(zip(("best", "mean", "worst"), map(number, triple), strict=True))
            for metric, triple in entries.items()
        }
        for method, entries in noise_range(evaluation).items()
    }
    gaps = [
        {key: _json(value) for key, value in asdict(entry).items()}
        for entry in differences(evaluation, baseline)
    ]
    return {
        "means": means,
        "noises": ranges,
        "baseline": baseline,
        "interval": f"95 %, percentile, {RESAMPLES} resamples of the pictures, seed 0",
        "differences": gaps,
    }


def _json(value: Any) -> Any:
    return number(value) if isinstance(value, float) else value


def _difference(method: str, metric: MetricInfo, gaps: np.ndarray) -> Difference:
    low, high = bootstrap_interval(gaps)
    wins = int((gaps < 0).sum() if metric.lower_better else (gaps > 0).sum())
    mean = float(gaps.mean()) if len(gaps) else math.nan
    return Difference(method, metric.name, mean, low, high, wins, len(gaps))


def _ranked(found: dict[str, Cell], lower_better: bool) -> dict[str, Cell]:
    values = {m: round(c.mean, DIGITS) for m, c in found.items() if math.isfinite(c.mean)}
    if len(values) < 2:
        return found
    marked = 2 if len(values) > 2 else 1  # the second of two is the last
    order = sorted(set(values.values()), reverse=not lower_better)[:marked]
    return {
        method: Cell(cell.mean, cell.std, cell.count, _rank(values.get(method), order))
        for method, cell in found.items()
    }


def _rank(value: float | None, order: list[float]) -> int:
    return order.index(value) + 1 if value in order else 0
