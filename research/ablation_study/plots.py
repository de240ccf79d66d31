"""One picture a study: gain and net gain of every row, or curves of fidelity against the rest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ablation_study.plan import Study
from ablation_study.tables import Scores

FIDELITY = "psnr_y"
"""What curves are drawn over."""
_ACROSS = 4


def plot_study(study: Study, scores: Scores, file: Path) -> bool:
    """Draw what has been measured. Returns whether there was anything to draw."""
    names = [n for n in study.rows if scores.cell(study, n, scores.metrics()[0]) is not None]
    if not names:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = any(study.rows[name].line for name in names)
    metrics = [m for m in scores.runner.common.evaluation.metrics if not curves or m != FIDELITY]
    across = min(_ACROSS, len(metrics)) if curves else len(metrics)
    down = math.ceil(len(metrics) / across)
    size = (3.4 * across, 3 * down) if curves else (2.6 * across, 1.6 + 0.45 * len(names))
    figure, axes = pyplot.subplots(down, across, figsize=size, squeeze=False)
    for number, (axis, metric) in enumerate(zip(axes.flat, metrics, strict=False)):
        if curves:
            _curves(axis, study, names, scores, metric)
        else:
            _forest(axis, study, names, scores, metric)
        arrow = "lower is better" if scores.lower_better(metric) else "higher is better"
        axis.set_title(f"{metric} ({arrow})", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.locator_params(axis="x", nbins=3)
        if number and not curves:
            axis.set_yticklabels([])
    for axis in axes.flat[len(metrics) :]:
        axis.set_axis_off()
    if curves:
        axes.flat[0].legend(fontsize=6)
    figure.suptitle(study.title, fontsize=9)
    figure.tight_layout()
    temporary = file.with_name(f".{file.name}.tmp.png")
    figure.savefig(temporary, dpi=130)
    temporary.replace(file)
    pyplot.close(figure)
    return True


def _forest(axis: Any, study: Study, names: list[str], scores: Scores, metric: str) -> None:
    """Gain (circle) and net gain (square) with their intervals, better to the right."""
    axis.axvline(0, color="grey", linewidth=0.8)
    for position, name in enumerate(reversed(names)):
        cell = scores.cell(study, name, metric)
        if cell is None:
            continue
        for shift, marker, d in ((0.15, "o", cell.gain), (-0.15, "s", cell.net)):
            if d is not None:
                error = [[d.mean - d.low], [d.high - d.mean]]
                color = "tab:orange" if marker == "o" else "tab:blue"
                axis.errorbar(d.mean, position + shift, xerr=error, fmt=marker, ms=3, color=color)
    axis.set_yticks(range(len(names)), list(reversed(names)))
    axis.set_xlabel("better ->  o gain, s net of control", fontsize=6)


def _curves(axis: Any, study: Study, names: list[str], scores: Scores, metric: str) -> None:
    """The metric over PSNR, a line for the rows that share a name, in their order; the base is a
    cross.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    for name in names:
        x, y = (scores.cell(study, name, m) for m in (FIDELITY, metric))
        if x is not None and y is not None:
            lines.setdefault(study.rows[name].line or name, []).append((x.mean, y.mean))
    for label, points in lines.items():
        axis.plot(*zip(*points, strict=True), marker="o", ms=3, linewidth=1, label=label)
    base = (float(scores.base_scores(m).mean()) for m in (FIDELITY, metric))
    axis.plot(*([value] for value in base), "kx", ms=6, label="base")
    axis.set_xlabel("PSNR-Y, dB", fontsize=7)
