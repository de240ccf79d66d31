"""One self-contained HTML page: tables, distributions, and before/after sliders."""

from __future__ import annotations

import json
import math
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from gdpo_sr.evaluation import pictures, plots, tables
from gdpo_sr.evaluation.results import Evaluation, natural_key, number, problem_lines
from gdpo_sr.evaluation.statistics import RESAMPLES, mean_over
from gdpo_sr.evaluation.summary import DIGITS, cells, differences, noise_range
from gdpo_sr.utils.text import printable
from gdpo_sr.writer import write_file


def write_report(folder: Path, evaluation: Evaluation, baseline: str) -> Path:
    """Write `folder`/index.html, which needs no other file and no network.

    Raises:
        OptionError: the folder cannot be written.
    """
    path = folder / "index.html"
    write_file(path, render(evaluation, baseline))
    return path


def render(evaluation: Evaluation, baseline: str) -> str:
    """The page; equal scores and pictures give equal bytes."""
    shown = list(pictures.shown_pictures(evaluation))
    page = files("gdpo_sr.evaluation") / "page"
    return Template((page / "template.html").read_text(encoding="utf-8")).substitute(
        title=escape(" · ".join(evaluation.methods)),
        protocol=escape(tables.describe(evaluation)),
        style=(page / "style.css").read_text(encoding="utf-8"),
        script=(page / "sliders.js").read_text(encoding="utf-8"),
        scores=_scores(evaluation),
        missing=_missing(evaluation),
        differences=_differences(evaluation, baseline),
        noises=_noises(evaluation),
        plots=_plots(evaluation),
        shown=_shown(len(shown), evaluation),
        versions=escape(", ".join(f"{k} {v}" for k, v in evaluation.versions.items())),
        sources=_sources(evaluation),
        data=_data(evaluation, shown, baseline),
    )


def _scores(evaluation: Evaluation) -> str:
    columns = {m.name: cells(evaluation, m) for m in evaluation.metrics}
    head = "".join(
        f'<th scope="col">{escape(m.name)} <span class="arrow" title="'
        f'{"lower" if m.lower_better else "higher"} is better">{"↓" if m.lower_better else "↑"}'
        "</span></th>"
        for m in evaluation.metrics
    )
    rows = []
    for index, (method, runs) in enumerate(evaluation.methods.items()):
        entries = "".join(
            f"<td>{_cell(columns[m.name][method], m.missing)}</td>" for m in evaluation.metrics
        )
        rows.append(
            f'<tr><th scope="row"><span class="key" style="--colour:{plots.colour(index)}"></span>'
            f"{escape(method)}</th><td>{len(runs)}</td>{entries}</tr>"
        )
    return (
        f'<table><thead><tr><th scope="col">method</th><th scope="col">runs</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(cell: Any, missing: str) -> str:
    if missing:
        return f'<span class="missing" title="{escape(missing)}">missing</span>'
    if not math.isfinite(cell.mean):
        return '<span class="missing">no score</span>'
    mark = {1: "best", 2: "second"}.get(cell.rank, "")
    spread = f" <small>± {cell.std:.{DIGITS}f}</small>" if math.isfinite(cell.std) else ""
    return (
        f'<span class="{mark}">{cell.mean:.{DIGITS}f}</span>{spread}<small> n={cell.count}</small>'
    )


def _missing(evaluation: Evaluation) -> str:
    entries = [
        f"<li><b>{escape(m.name)}</b>: {escape(m.missing)}</li>"
        for m in evaluation.metrics
        if m.missing
    ]
    word = "metric is" if len(entries) == 1 else "metrics are"
    problems = [f"<li>{escape(printable(line))}</li>" for line in problem_lines(evaluation)]
    summary = f"{len(entries)} {word} missing, and what to do about it"
    return _details(summary, entries) + _details("Pictures without a score", problems)


def _details(summary: str, entries: list[str]) -> str:
    if not entries:
        return ""
    return f"<details><summary>{summary}</summary><ul>{''.join(entries)}</ul></details>"


def _differences(evaluation: Evaluation, baseline: str) -> str:
    found = differences(evaluation, baseline)
    if not found:
        return ""
    rows = []
    for metric in evaluation.metrics:
        group = [entry for entry in found if entry.metric == metric.name]
        bounds = [abs(v) for e in group for v in (e.low, e.high, e.mean) if math.isfinite(v)]
        reach = max(bounds, default=0.0)
        for entry in group:
            rows.append(_difference_row(entry, metric.lower_better, reach))
    return (
        f'<section id="differences"><h2>Differences to {escape(baseline)}</h2>'
        "<p>Mean over pictures of the paired difference, with its 95 % bootstrap interval"
        f" ({RESAMPLES:,} resamples of the pictures). Grey: the interval holds 0.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Differences"><table><thead><tr>'
        '<th scope="col">metric</th>'
        '<th scope="col">method</th><th scope="col">difference</th><th scope="col">95 % interval'
        '</th><th scope="col"><span class="sr">plot</span></th><th scope="col">better on</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _difference_row(entry: Any, lower_better: bool, reach: float) -> str:
    better = (entry.mean < 0) == lower_better
    kind = ("better" if better else "worse") if entry.is_clear else "unclear"
    interval = tables.interval_text(entry)
    bar = plots.interval_bar(entry.mean, entry.low, entry.high, reach)
    return (
        f'<tr class="{kind}"><th scope="row">{escape(entry.metric)}</th>'
        f"<td>{escape(entry.method)}</td><td>{tables.signed(entry.mean)} <small>{kind}</small></td>"
        f"<td>{interval}</td><td>{bar}</td><td>{entry.better_on} of {entry.count}</td></tr>"
    )


def _noises(evaluation: Evaluation) -> str:
    ranges = noise_range(evaluation)
    if not ranges:
        return ""
    metrics = list(next(iter(ranges.values())))
    head = "".join(f'<th scope="col">{escape(metric)}</th>' for metric in metrics)
    rows = []
    for method, entries in ranges.items():
        count = len(evaluation.methods[method])
        for index, label in enumerate(("best", "mean", "worst")):
            values = "".join(f"<td>{tables.plain(entries[m][index])}</td>" for m in metrics)
            rows.append(
                f'<tr><th scope="row">{escape(method)}</th><td>{label} of {count}</td>{values}</tr>'
            )
    return (
        '<section id="noises"><h2>Best, mean and worst noise</h2><p>Average over pictures of each'
        " one's best, mean and worst run: what choosing among the runs could give at most.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Noises"><table><thead><tr>'
        '<th scope="col">method</th>'
        f'<th scope="col">of its runs</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        "</div></section>"
    )


def _plots(evaluation: Evaluation) -> str:
    figures = []
    for metric in evaluation.metrics:
        if metric.missing or metric.of_sets:
            continue
        scores = {m: mean_over(evaluation.array(m, metric.name), 0) for m in evaluation.methods}
        better = "lower" if metric.lower_better else "higher"
        title = f"{metric.name}, {better} is better"
        if drawn := plots.distribution(f"Distribution of {title}", scores):
            figures.append(
                f"<figure><figcaption><b>{escape(metric.name)}</b> {better} is better</figcaption>"
                f"{drawn}</figure>"
            )
    return "".join(figures)


def _shown(count: int, evaluation: Evaluation) -> str:
    total = len(evaluation.names)
    which = f"all {total}" if count == total else f"{count} of {total}, where methods differ most"
    seeds = " Of several runs the first is shown." if evaluation.has_seeds else ""
    return (
        f"Shown: {which}. For looking, not for measuring: embedded as WebP of quality"
        f" {pictures.QUALITY}; of pictures above {pictures.MAX_SIDE} pixels the window where the"
        f" methods differ most; at most {pictures.MAX_PICTURES} pictures and"
        f" {pictures.MAX_BYTES // 1_000_000} MB.{seeds}"
    )


def _sources(evaluation: Evaluation) -> str:
    return "".join(
        f"<li><b>{escape(method)}</b>: {escape(', '.join(run.source for run in runs))}</li>"
        for method, runs in evaluation.methods.items()
    )


def _data(evaluation: Evaluation, shown: list[pictures.Shown], baseline: str) -> str:
    """What the script needs, as JSON that cannot end its script element."""
    metrics = [m for m in evaluation.metrics if not (m.missing or m.of_sets)]
    means = {
        (method, m.name): dict(
            zip(evaluation.names, mean_over(evaluation.array(method, m.name), 0), strict=True)
        )
        for method in evaluation.methods
        for m in metrics
    }
    entries = [
        {
            "name": picture.name,
            "width": picture.width,
            "height": picture.height,
            "part": picture.part,
            "difference": picture.difference,
            "images": picture.images,
            "scores": {
                method: {m.name: number(means[method, m.name][picture.name]) for m in metrics}
                for method in evaluation.methods
            },
        }
        for picture in shown
    ]
    sources = [pictures.GROUND_TRUTH] if evaluation.references else []
    content = {
        "metrics": [{"name": m.name, "lower": m.lower_better} for m in metrics],
        "methods": list(evaluation.methods),
        "baseline": baseline,
        "sources": [*evaluation.methods, *sources],
        "order": sorted((p.name for p in shown), key=natural_key),
        "pictures": entries,
    }
    return json.dumps(content, ensure_ascii=True).replace("<", "\\u003c")
