"""Tables for the terminal, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Sequence

from gdpo_sr.evaluation.results import Evaluation, MetricInfo, problem_lines
from gdpo_sr.evaluation.summary import DIGITS, Cell, Difference, cells, differences, noise_range
from gdpo_sr.utils.text import align, in_markdown

Mark = Callable[[str, int], str]
"""How the best (rank 1) and second best (rank 2) number is set off."""


def terminal_table(evaluation: Evaluation) -> str:
    """Metrics as rows, methods as columns, then n: the pictures behind each mean."""
    rows = [["metric", *evaluation.methods, "n"]]
    for metric in evaluation.metrics:
        entries = cells(evaluation, metric)
        counts = {cell.count for cell in entries.values()}
        texts = [
            "missing" if metric.missing else cell_text(cell, _plain_mark, len(counts) > 1, "+-")
            for cell in entries.values()
        ]
        count = str(counts.pop()) if len(counts) == 1 else "in cells"
        rows.append([f"{metric.name} {arrow(metric)}", *texts, count])
    legend = [[], ["* best"], ["* best, ' second best"]][min(len(evaluation.methods), 3) - 1]
    return "\n".join([*align(rows), *legend])


def terminal_differences(evaluation: Evaluation, baseline: str) -> str:
    """One line per metric and method; empty with one method."""
    found = differences(evaluation, baseline)
    if not found:
        return ""
    rows = [["metric", "method", f"minus {baseline}", "95 % interval", "better on"]]
    for entry in found:
        rows.append(
            [
                entry.metric,
                entry.method,
                signed(entry.mean),
                interval_text(entry) + (" " if entry.is_clear else "?"),
                f"{entry.better_on}/{entry.count}",
            ]
        )
    return "\n".join([*align(rows), "? the interval holds 0: no clear difference"])


def terminal_noises(evaluation: Evaluation) -> str:
    """Best, mean and worst of the noises of each picture; empty with one run per method."""
    ranges = noise_range(evaluation)
    rows = [["metric", "method", "runs", "best", "mean", "worst"]]
    for method, entries in ranges.items():
        runs = str(len(evaluation.methods[method]))
        for metric, triple in entries.items():
            rows.append([metric, method, runs, *map(plain, triple)])
    return "\n".join(align(rows)) if ranges else ""


def markdown(evaluation: Evaluation, baseline: str) -> str:
    """Methods as rows; best bold, second best underlined; then differences, noises, what is
    missing.
    """
    header = ["method", "n", *(f"{m.name} {_ARROWS[m.lower_better]}" for m in evaluation.metrics)]
    body = _method_rows(evaluation, _markdown_mark, "±", lambda metric: "missing")
    parts = [_markdown_table([header, *([in_markdown(row[0]), *row[1:]] for row in body)])]
    gaps = differences(evaluation, baseline)
    if gaps:
        rows = [
            ["metric", "method", f"minus {in_markdown(baseline)}", "95 % interval", "better on"]
        ]
        for e in gaps:
            shown = f"**{signed(e.mean)}**" if e.is_clear else signed(e.mean)
            wins = f"{e.better_on}/{e.count}"
            rows.append([e.metric, in_markdown(e.method), shown, interval_text(e), wins])
        parts.append(_markdown_table(rows))
        parts.append("Bold: the paired bootstrap interval leaves out 0.")
    if ranges := noise_range(evaluation):
        rows = [["method", "of its noises", *next(iter(ranges.values()))]]
        for method, entries in ranges.items():
            for index, label in enumerate(("best", "mean", "worst")):
                values = [plain(triple[index]) for triple in entries.values()]
                rows.append(
                    [in_markdown(method), f"{label} of {len(evaluation.methods[method])}", *values]
                )
        parts.append(_markdown_table(rows))
    missing = [f"- {m.name} is missing: {m.missing}" for m in evaluation.metrics if m.missing]
    missing += [f"- no score, {line}" for line in problem_lines(evaluation)]
    if missing:
        parts.append("\n".join(map(in_markdown, missing)))
    return "\n\n".join([f"{describe(evaluation)}.", *parts]) + "\n"


def latex(evaluation: Evaluation) -> str:
    """A tabular for booktabs; best bold, second best underlined."""
    names = [f"{_tex(m.name)} {_TEX_ARROWS[m.lower_better]}" for m in evaluation.metrics]
    rows = _method_rows(evaluation, _latex_mark, r"$\pm$", lambda metric: "--")
    lines = [
        f"% {describe(evaluation)}",
        *(
            f"% {m.name} is missing: {' '.join(m.missing.split())}"
            for m in evaluation.metrics
            if m.missing
        ),
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{lr{'c' * len(names)}}}",
        r"\toprule",
        " & ".join(["Method", "$n$", *names]) + r" \\",
        r"\midrule",
        *(" & ".join([_tex(row[0]), *row[1:]]) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def per_image_csv(evaluation: Evaluation) -> str:
    """A row per method, run and picture, a column per metric; empty where there is no score."""
    metrics = [m.name for m in evaluation.metrics if not m.of_sets]
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(["method", "run", "image", *metrics])
    for method, runs in evaluation.methods.items():
        for run in runs:
            for name in evaluation.names:
                scores = run.scores.get(name, {})
                values = [scores.get(metric, math.nan) for metric in metrics]
                texts = [repr(value) if math.isfinite(value) else "" for value in values]
                writer.writerow([method, run.source, name, *texts])
    return target.getvalue()


def describe(evaluation: Evaluation) -> str:
    """The protocol in one line."""
    record = evaluation.protocol
    crop = f"crop {record['crop_border']} px" if record["crop_border"] else "no crop"
    reference = "against the ground truth" if record["with_reference"] else "no ground truth"
    count = len(evaluation.names)
    pictures = f"{count} picture{'s' if count > 1 else ''}"
    if evaluation.left_out:
        pictures += f", {len(evaluation.left_out)} left out that some folder lacks"
    return f"Protocol {record['name']}: {record['colours']}, {crop}, {reference}; {pictures}"


def cell_text(cell: Cell, mark: Mark, with_count: bool, plus_minus: str) -> str:
    """`25.1511`, marked, with `± std` of several runs and `(n=11)` where counts differ."""
    if not math.isfinite(cell.mean):
        return "no score"
    text = mark(f"{cell.mean:.{DIGITS}f}", cell.rank)
    if math.isfinite(cell.std):
        text += f" {plus_minus} {cell.std:.{DIGITS}f}"
    return text + (f" (n={cell.count})" if with_count else "")


def plain(value: float) -> str:
    """`25.1511`, or that there is none."""
    return f"{value:.{DIGITS}f}" if math.isfinite(value) else "no score"


def signed(value: float) -> str:
    """`+0.1511`, or that there is none."""
    return f"{value:+.{DIGITS}f}" if math.isfinite(value) else "no score"


def interval_text(entry: Difference) -> str:
    """`[-0.1, +0.2]`; of fewer than two pictures there is no interval."""
    if not (math.isfinite(entry.low) and math.isfinite(entry.high)):
        return f"none of {entry.count} picture{'' if entry.count == 1 else 's'}"
    return f"[{entry.low:+.{DIGITS}f}, {entry.high:+.{DIGITS}f}]"


def arrow(metric: MetricInfo) -> str:
    """Which direction is better, in words where the terminal has no arrows."""
    shown = _ARROWS[metric.lower_better]
    try:
        shown.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "(lower)" if metric.lower_better else "(higher)"
    return shown


_ARROWS = {True: "↓", False: "↑"}
_TEX_ARROWS = {True: r"$\downarrow$", False: r"$\uparrow$"}


def _method_rows(
    evaluation: Evaluation, mark: Mark, plus_minus: str, missing: Callable[[MetricInfo], str]
) -> list[list[str]]:
    """[method, n, cells ...]; a cell says its own n where it has scores of fewer pictures."""
    total = len(evaluation.names)
    columns = []
    for metric in evaluation.metrics:
        entries = cells(evaluation, metric)
        columns.append(
            {
                method: missing(metric)
                if metric.missing
                else cell_text(cell, mark, not metric.of_sets and cell.count < total, plus_minus)
                for method, cell in entries.items()
            }
        )
    return [[m, str(total), *(column[m] for column in columns)] for m in evaluation.methods]


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def _plain_mark(text: str, rank: int) -> str:
    return {1: f"*{text}", 2: f"'{text}"}.get(rank, text)


def _markdown_mark(text: str, rank: int) -> str:
    return {1: f"**{text}**", 2: f"<ins>{text}</ins>"}.get(rank, text)


def _latex_mark(text: str, rank: int) -> str:
    return {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(rank, text)


def _tex(text: str) -> str:
    special = {c: rf"\{c}" for c in "&%$#_{}"} | {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    }  # fmt: skip
    return "".join(special.get(c, c) for c in text)
