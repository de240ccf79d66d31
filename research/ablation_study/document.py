"""The evidence from the results: tables, plots, the command behind each, and verdicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ablation_study.plan import Claim, Study
from ablation_study.plots import plot_study
from ablation_study.runner import Runner
from ablation_study.statistics import Difference, not_worse, verdict
from ablation_study.tables import PROBES, Cell, Scores
from gdpo_sr.writer import write_file


def write_document(file: Path, runner: Runner, studies: list[Study]) -> None:
    """Write the document and its plots (`<study>.png` beside it)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scores = Scores(runner)
    if scores.base is None:
        write_file(file, "# Evidence\n\nNothing has been measured yet.\n")
        return
    common = runner.common
    parts = [_head(runner, scores), _said("What to know first", common.about)]
    parts.append(_said("What the tables say", common.findings))
    for study in studies:
        plot = file.with_name(f"{study.name}.png")
        drawn = plot_study(study, scores, plot)
        parts.append(_section(study, scores, plot.name if drawn else None))
    parts += [_verdicts(studies, scores), _costs(runner)]
    parts += [_said("What was tried", common.tried)]
    write_file(file, "\n\n".join(part for part in parts if part) + "\n")


def _head(runner: Runner, scores: Scores) -> str:
    common = runner.common
    sets = {name: len(next(iter(v.values()))) for name, v in scores.base["scores"].items()}
    photos = ", ".join(f"{name} ({count})" for name, count in sets.items())
    force = " ".join(common.force)
    return f"""# Evidence

Written by `python research/ablations.py` from research/options and
research/evidence/scores.jsonl; do not edit it by hand.

- Base: the weights with the digest `{common.base}`.
- Every run starts from `{Path(common.options).name}` with `{force}` and the changes that its row
  names (`research/options/*.yml`); seeds {", ".join(map(str, common.seeds))} unless a study
  names others.
- Photos that no run trained on: {photos}. The same noise for all
  (seed {common.evaluation.noise_seed}, {common.evaluation.num_noises} a photo).
- **Gain** is against the base, **net** against the row's control: the same run with the advantages
  permuted inside each group. Both are paired differences in the metric's good direction, with 95 %
  intervals from a bootstrap over seeds and photos. Bold: the interval leaves out 0. Only a bold,
  positive net gain counts as caused by the reward.
- R marks metrics that the row is rewarded for. {", ".join(PROBES)} are probes of the pictures:
  plain changes, neither good nor bad by themselves; a growing latent_grid is a grid in the picture.
- Rows with fewer seeds than asked for say so; their intervals are too narrow."""


def _section(study: Study, scores: Scores, plot: str | None) -> str:
    lines = [f"## {study.title}", "", study.question, ""]
    lines += [f"`python research/ablations.py --only {study.name}`", ""]
    lines += [*_table(study, scores), "", _times(study, scores)]
    if study.by_set:
        for name in scores.base["scores"]:
            lines += [
                "",
                f"Photos `{name}` alone:",
                "",
                *_table(study, Scores(scores.runner, name)),
            ]
    if plot:
        lines += ["", f"![{study.title}]({plot})"]
    return "\n".join(lines)


def _table(study: Study, scores: Scores) -> list[str]:
    lines = ["| row | seeds | metric | base | row | gain | net of control |"]
    lines += ["|---|---|---|---|---|---|---|"]
    missing = []
    for name in study.rows:
        cells = {metric: scores.cell(study, name, metric) for metric in scores.metrics()}
        if None in cells.values():
            missing.append(name)
            continue
        rewarded = scores.rewarded(study, name)
        for metric, cell in cells.items():
            mark = " R" if metric in rewarded else ""
            figures = _figures(cell, scores, metric)
            lines.append(f"| {name} | {cell.seeds} | {metric}{mark} | {figures} |")
    return [*lines, "", f"Not run: {', '.join(missing)}."] if missing else lines


def _times(study: Study, scores: Scores) -> str:
    """How long a training of every row took, on average."""
    seconds = {name: scores.seconds(study, name) for name in study.rows}
    known = [f"{name} {value:.0f}" for name, value in seconds.items() if value]
    return f"Seconds of training: {', '.join(known)}." if known else ""


def _figures(cell: Cell, scores: Scores, metric: str) -> str:
    base = np.nanmean(scores.base_scores(metric))
    net = "no control" if cell.net is None else _interval(cell.net)
    return f"{base:.4g} | {cell.mean:.4g} | {_interval(cell.gain)} | {net}"


def _interval(d: Difference) -> str:
    text = f"{d.mean:+.3g} [{d.low:+.3g}, {d.high:+.3g}]"
    return f"**{text}**" if d.better or d.worse else text


def _verdicts(studies: list[Study], scores: Scores) -> str:
    lines = ["## The claims, at this scale", ""]
    lines += ["| claim | source | compared | verdict |", "|---|---|---|---|"]
    for study in studies:
        for claim in study.claims:
            found = decide(claim, study, scores)
            pair = f"{study.name}: {claim.better} against {claim.than}"
            lines.append(f"| {claim.text} | {claim.source} | {pair} | {found} |")
    return "\n".join(lines) if len(lines) > 4 else ""


def decide(claim: Claim, study: Study, scores: Scores) -> str:
    """Verdict on a claim; a gain that is no larger than the control's does not count."""
    metrics = claim.metrics or scores.rewarded(study, claim.better)
    found = [scores.between(study, claim.better, claim.than, m) for m in metrics]
    if not found or any(d is None for d in found):
        return "not run"
    known = [d for d in found if d is not None]
    if claim.kind == "not_worse":
        return f"{not_worse(known)}: {_listed(metrics, known)}"
    text = verdict(known)
    cells = [scores.cell(study, claim.better, m) for m in metrics]
    nets = [c.net for c in cells if c is not None and c.net is not None]
    if text.startswith("holds") and nets and not all(net.better for net in nets):
        text += ", but the reward did not cause all of it (control)"
    return f"{text}: {_listed(metrics, known)}"


def _listed(metrics: list[str], found: list[Difference]) -> str:
    return ", ".join(f"{m} {_interval(d)}" for m, d in zip(metrics, found, strict=True))


def _costs(runner: Runner) -> str:
    rows = runner.results.of_base(runner.common.base)
    training = sum({tuple(row["force"]): row["seconds_training"] for row in rows}.values())
    measuring = sum(row["seconds_measuring"] for row in rows)
    return f"""## Cost

{training / 60:.0f} minutes of training, {measuring / 60:.0f} minutes for {len(rows)} measurements;
one process for a run, on cores that may have had other work to do."""


def _said(heading: str, text: str) -> str:
    """A section of words from the options; nothing without words."""
    return f"## {heading}\n\n{text.strip()}" if text.strip() else ""
