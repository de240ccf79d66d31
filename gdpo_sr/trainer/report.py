"""Trained network ("policy") against base, same pictures and noise: paired figures, and where they
go: table, log, TensorBoard, JSON, side-by-side PNG.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from tqdm import tqdm

from gdpo_sr.config.schema import LoggerOptions
from gdpo_sr.utils.logger import ScalarLog, Writer, get_logger, tensorboard_writer
from gdpo_sr.utils.panels import captioned, write_side_by_side
from gdpo_sr.utils.wandb_log import WandbWriter, check_wandb
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
    return align(rows)


def _change_cells(row: MetricComparison) -> list[str]:
    changes = row.changes()
    return [
        f"{mean(changes):+.4f}",
        _number(row.standard_error()),
        f"{row.improved()}/{len(changes)}",
    ]


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def align(rows: list[list[str]]) -> str:
    """Columns of equal width: the first two to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


class TrainingLog:
    """What is told of a run while it trains: log lines, progress bar, curves and pictures.

    Args:
        options: section `logger`.
        logger: where lines go.
        total: updates of the run.

    Raises:
        OptionError: wandb is asked for and not installed.
    """

    def __init__(self, options: LoggerOptions, logger: logging.Logger, total: int) -> None:
        self.options, self.logger, self.total = options, logger, total
        self.scalars: ScalarLog | None = None
        if options.use_wandb:
            check_wandb()

    def open(self, folder: Path, iteration: int, config: dict[str, Any]) -> None:
        """Write `train.log` and curves from here on; TensorBoard events of updates after
        `iteration`, which a resumed run makes again, are not shown any more.

        Args:
            folder: `log` in the folder of the run, which has the run's name.
            config: options of the run.
        """
        get_logger(folder / "train.log")
        writers: list[Writer] = []
        if self.options.use_tb_logger:
            first = iteration + 1 if iteration else None
            writers.append(tensorboard_writer(folder / "tensorboard", first))
        if self.options.use_wandb:
            writers.append(WandbWriter(folder, folder.parent.name, config))
        self.scalars = ScalarLog(*writers) if writers else None

    def is_due(self, iteration: int) -> bool:
        """Whether an update gets a line, and its times are taken."""
        return iteration % self.options.print_freq == 0

    def update(
        self, iteration: int, logs: dict[str, float], progress: dict[str, float], bar: tqdm
    ) -> None:
        """One update: all figures to TensorBoard, the main ones to the bar, and every `print_freq`
        updates to a line.
        """
        shown = {"loss": logs["loss"], **progress}
        bar.update()
        bar.set_postfix_str(figures_text(shown), refresh=False)
        self.add(logs, "train", iteration)
        if self.is_due(iteration):
            shown |= {name: logs[name] for name in ("gradient_norm", "omega", "lr") if name in logs}
            seconds = f", {logs['seconds_total']:.3g} s" if "seconds_total" in logs else ""
            text = figures_text(shown) + seconds
            self.logger.info("update %d of %d: %s", iteration, self.total, text)

    def validation(self, comparison: Comparison, pictures: Pictures, result_name: str) -> None:
        """One line per metric, base against result; in TensorBoard the pictures as well."""
        for line in comparison_lines(comparison, result_name):
            self.logger.info("validation %d: %s", comparison.iteration, line)
        if self.scalars is None:
            return
        step = comparison.iteration
        self.add({r.name: mean(r.policy) for r in comparison.metrics}, "val", step)
        self.add({r.name: mean(r.changes()) for r in comparison.metrics}, "val_change", step)
        for name, row in zip(comparison.pictures, with_titles(pictures, result_name), strict=True):
            self.scalars.add_image(f"val/{name}", captioned(row), step)

    def add(self, values: dict[str, float], group: str, step: int) -> None:
        """Curve points `<group>/<name>` in TensorBoard, if it is written."""
        if self.scalars is not None:
            self.scalars.add_scalars({f"{group}/{k}": v for k, v in values.items()}, step)

    def close(self) -> None:
        """Write what is held back."""
        if self.scalars is not None:
            self.scalars.close()


def figures_text(values: dict[str, float]) -> str:
    """`loss 0.6931, gradient norm 0.1203`."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())


def comparison_lines(comparison: Comparison, result_name: str) -> list[str]:
    """Base against result, a line per metric; one line where they are the same, as at the start."""
    rows = comparison.metrics
    if all(change == 0 for row in rows for change in row.changes()):
        figures = figures_text({row.name: mean(row.base) for row in rows})
        return [f"the base, on {len(comparison.pictures)} pictures: {figures}"]
    return [
        f"{row.name} base {mean(row.base):.4f} {result_name} {mean(row.policy):.4f} change "
        f"{mean(row.changes()):+.4f}, better on {row.improved()} of {len(row.changes())}"
        for row in rows
    ]


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
