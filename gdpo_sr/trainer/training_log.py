"""What is told of a run while it trains: log lines, progress bar, curves and pictures. However long
it is, they stay small: the log file rotates, curves and pictures get sparser.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gdpo_sr.config.schema import Options
from gdpo_sr.trainer.report import Comparison, Pictures, mean, with_titles
from gdpo_sr.utils.logger import ScalarLog, Writer, get_logger, tensorboard_writer
from gdpo_sr.utils.panels import captioned
from gdpo_sr.utils.wandb_log import WandbWriter, check_wandb

FULL_CURVE = 10_000
"""Updates that all give a point; TensorBoard itself shows 1,000 points of a curve."""
FULL_PICTURES = 10
"""Validations that all show their pictures."""


def is_kept(count: int, full: int) -> bool:
    """Whether a curve shows point `count`: all up to `full`, every tenth up to ten times as many,
    every hundredth up to a hundred times, and so on: 0.9 `full` more points a power of ten.
    """
    step = 1
    while count > full * step:
        step *= 10
    return count % step == 0


class TrainingLog:
    """Log lines, progress bar, curves and pictures of a run.

    Args:
        options: of the run; `logger`, `train.total_iter` and `val.val_freq` are used.
        logger: where lines go.

    Raises:
        OptionError: wandb is asked for and not installed.
    """

    def __init__(self, options: Options, logger: logging.Logger) -> None:
        self.options, self.logger = options.logger, logger
        self.total, self.val_freq = options.train.total_iter, options.val.val_freq
        self.scalars: ScalarLog | None = None
        if self.options.use_wandb:
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
        """One update: all figures to the curves (`is_kept`), the main ones to the bar, and every
        `print_freq` updates to a line.
        """
        shown = {"loss": logs["loss"], **progress}
        bar.update()
        bar.set_postfix_str(figures_text(shown), refresh=False)
        if is_kept(iteration, FULL_CURVE):
            self.add(logs, "train", iteration)
        if self.is_due(iteration):
            shown |= {name: logs[name] for name in ("gradient_norm", "omega", "lr") if name in logs}
            seconds = f", {logs['seconds_total']:.3g} s" if "seconds_total" in logs else ""
            text = figures_text(shown) + seconds
            self.logger.info("update %d of %d: %s", iteration, self.total, text)

    def validation(self, comparison: Comparison, pictures: Pictures, result_name: str) -> None:
        """One line per metric, base against result; curves; pictures of the last validation and of
        those that `is_kept` takes.
        """
        step = comparison.iteration
        for line in comparison_lines(comparison, result_name):
            self.logger.info("validation %d: %s", step, line)
        self.add({r.name: mean(r.policy) for r in comparison.metrics}, "val", step)
        self.add({r.name: mean(r.changes()) for r in comparison.metrics}, "val_change", step)
        count = step // self.val_freq if self.val_freq else 0
        if self.scalars is None or not (step >= self.total or is_kept(count, FULL_PICTURES)):
            return
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
