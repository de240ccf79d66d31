"""One picture a study: gain and net gain of every row, or the curve over t_add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablation_study.plan import Study
from ablation_study.tables import Scores


def plot_study(study: Study, scores: Scores, file: Path) -> bool:
    """Draw what has been measured. Returns whether there was anything to draw."""
    names = [n for n in study.rows if scores.cell(study, n, scores.metrics()[0]) is not None]
    if not names:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    metrics = list(scores.runner.common.evaluation.metrics)
    curve = all(study.rows[name].t_add is not None for name in names)
    figure, axes = pyplot.subplots(
        1, len(metrics), figsize=(2.6 * len(metrics), 1.6 + 0.45 * len(names)), squeeze=False
    )
    for axis, metric in zip(axes[0], metrics, strict=True):
        if curve:
            _curve(axis, study, names, scores, metric)
        else:
            _forest(axis, study, names, scores, metric)
        arrow = "lower is better" if scores.lower_better(metric) else "higher is better"
        axis.set_title(f"{metric} ({arrow})", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.locator_params(axis="x", nbins=3)
    for axis in axes[0][1:]:
        if not curve:
            axis.set_yticklabels([])
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


def _curve(axis: Any, study: Study, names: list[str], scores: Scores, metric: str) -> None:
    """Mean over t_add, one line for trained rows and one for the base."""
    for trained, label in ((False, "base"), (True, "GDPO")):
        points = sorted(
            (study.rows[n].t_add or 0, cell.mean)
            for n in names
            if study.rows[n].train is trained and (cell := scores.cell(study, n, metric))
        )
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", ms=3, label=label)
    axis.set_xlabel("t_add", fontsize=7)
    axis.legend(fontsize=6)
