"""Trained network ("policy") against base, same pictures and noise: paired figures, as a table,
JSON and a side-by-side PNG; log lines and curves are `training_log`'s.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from gdpo_sr.utils.panels import write_side_by_side
from gdpo_sr.utils.text import align
from gdpo_sr.writer import write_file

Pictures = list[dict[str, torch.Tensor]]
"""`lr` (enlarged), `base`, `policy`, `hr` of every validation picture, (3, H, W) in [0, 1]."""


@dataclass
class MetricComparison:
    """One metric, picture by picture.

    Attributes:
        name: of the metric.
        lower_better: direction of the metric.
        rewarded: whether training looked at it (reward or loss); the others are held out.
        base, policy: one value per picture (mean over noises), NaN where the metric failed.
    """

    name: str
    lower_better: bool
    rewarded: bool
    base: list[float]
    policy: list[float]

    def pairs(self) -> list[tuple[float, float]]:
        """Pictures with both values."""
        both = zip(self.base, self.policy, strict=True)
        return [(b, p) for b, p in both if math.isfinite(b) and math.isfinite(p)]

    def changes(self) -> list[float]:
        """policy - base per picture with both values."""
        return [policy - base for base, policy in self.pairs()]

    def improved(self) -> int:
        """Pictures that changed in the metric's direction."""
        return sum(change < 0 if self.lower_better else change > 0 for change in self.changes())

    def standard_error(self) -> float:
        """Standard error of the mean change; NaN for fewer than two pictures."""
        changes = self.changes()
        return stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else math.nan


@dataclass
class Comparison:
    """All metrics of one validation.

    Attributes:
        iteration: updates done.
        pictures: names of the pictures.
        metrics: in the order of the table.
    """

    iteration: int
    pictures: list[str]
    metrics: list[MetricComparison] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Comparison:
        """What `to_json` wrote."""
        rows = [MetricComparison(**row) for row in values["metrics"]]
        return cls(values["iteration"], values["pictures"], rows)


def mean(values: list[float]) -> float:
    """Mean of the finite values, NaN if there is none."""
    finite = [v for v in values if math.isfinite(v)]
    return fmean(finite) if finite else math.nan


def comparison_table(
    policy: Comparison,
    control: Comparison | None = None,
    result: str = "GDPO",
    fitted: str = "rewarded",
) -> str:
    """Aligned text: base, result, their paired change (with standard error) and on how many
    pictures it is a gain.

    `control` adds the change of a run whose advantages were permuted inside each group. `result`
    and `fitted` are the words for the trained generator and for metrics that training looks at.
    """
    header = ["metric", "", "base", result, "change", "+-", "better on"]
    if control is not None:
        header += ["control change", "+-", "better on"]
    rows = [header]
    others = {row.name: row for row in control.metrics} if control is not None else {}
    for rewarded in (True, False):
        for row in (r for r in policy.metrics if r.rewarded is rewarded):
            label = fitted if rewarded else "held out"
            cells = [f"{row.name} {'(lower)' if row.lower_better else '(higher)'}", label]
            cells += [_number(mean(row.base)), _number(mean(row.policy)), *_change_cells(row)]
            if control is not None:
                cells += _change_cells(others[row.name])
            rows.append(cells)
    return "\n".join(align(rows, 2))


def _change_cells(row: MetricComparison) -> list[str]:
    changes = row.changes()
    return [
        f"{mean(changes):+.4f}",
        _number(row.standard_error()),
        f"{row.improved()}/{len(changes)}",
    ]


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def write_figures(comparison: Comparison, verdict: dict[str, Any], folder: Path) -> None:
    """`validation_<iteration>.json`: every picture's figures, and what was concluded from them."""
    figures = json.dumps({**comparison.to_json(), **verdict}, indent=1)
    write_file(folder / f"validation_{comparison.iteration:07d}.json", figures)


def write_pictures(pictures: Pictures, result_name: str, path: Path) -> None:
    """One PNG of all pictures, LR, base, result and HR beside each other."""
    write_side_by_side(path, with_titles(pictures, result_name))


def with_titles(pictures: Pictures, result_name: str) -> Pictures:
    """The pictures by the titles that readers see."""
    titles = {"lr": "LR (bicubic)", "base": "base", "policy": result_name, "hr": "HR"}
    return [{titles[key]: image for key, image in row.items()} for row in pictures]
