"""Where the figures and pictures of a validation go: log, TensorBoard, JSON, side-by-side PNG."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from gdpo_sr.trainer.comparison import Comparison, mean
from gdpo_sr.trainer.validation import Pictures
from gdpo_sr.utils.logger import ScalarLog
from gdpo_sr.utils.panels import captioned, write_side_by_side
from gdpo_sr.writer import write_file


def log_comparison(comparison: Comparison, result_name: str, logger: logging.Logger) -> None:
    """One line per metric: base against result."""
    for row in comparison.metrics:
        logger.info(
            "validation %d: %s base %.4f %s %.4f change %+.4f, better on %d of %d",
            comparison.iteration,
            row.name,
            mean(row.base),
            result_name,
            mean(row.policy),
            mean(row.changes()),
            row.improved(),
            len(row.changes()),
        )


def add_to_tensorboard(
    comparison: Comparison, pictures: Pictures, result_name: str, scalars: ScalarLog
) -> None:
    """Means, their changes, and the captioned pictures."""
    step = comparison.iteration
    values = {f"val/{r.name}": mean(r.policy) for r in comparison.metrics}
    changes = {f"val_change/{r.name}": mean(r.changes()) for r in comparison.metrics}
    scalars.add_scalars({**values, **changes}, step)
    for name, row in zip(comparison.pictures, with_titles(pictures, result_name), strict=True):
        scalars.add_image(f"val/{name}", captioned(row), step)


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
