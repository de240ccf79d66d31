"""What the command `evaluate` does with its arguments."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gdpo_sr.evaluation import tables
from gdpo_sr.evaluation.folders import Matching, read_inputs
from gdpo_sr.evaluation.html_report import write_report
from gdpo_sr.evaluation.outputs import check_outputs
from gdpo_sr.evaluation.results import (
    Evaluation,
    load_json,
    merge,
    save_json,
    version_differences,
)
from gdpo_sr.evaluation.scoring import evaluate
from gdpo_sr.evaluation.summary import choose_baseline, summary_record
from gdpo_sr.metrics import PROTOCOLS, make_protocol
from gdpo_sr.types import OptionError
from gdpo_sr.utils.devices import checked_device
from gdpo_sr.utils.text import printable
from gdpo_sr.writer import write_file


def run(args: argparse.Namespace) -> int:
    """Score pictures as `gdpo_sr.evaluate.main` says; its result and its errors."""
    check_outputs(args)
    evaluation = _evaluation(args)
    baseline = choose_baseline(evaluation, args.baseline)
    _print(evaluation, baseline)
    if args.save_json:
        save_json(Path(args.save_json), evaluation, summary_record(evaluation, baseline))
    for folder in filter(None, (args.save, args.report)):
        write_files(Path(folder), evaluation, baseline)
    if args.report:
        print(f"report: {write_report(Path(args.report), evaluation, baseline)}")
    return _report_problems(evaluation, bool(args.metrics))


def write_files(folder: Path, evaluation: Evaluation, baseline: str) -> None:
    """scores.json, scores.csv (per picture), table.md and table.tex."""
    save_json(folder / "scores.json", evaluation, summary_record(evaluation, baseline))
    write_file(folder / "scores.csv", tables.per_image_csv(evaluation))
    write_file(folder / "table.md", tables.markdown(evaluation, baseline))
    write_file(folder / "table.tex", tables.latex(evaluation))


def _evaluation(args: argparse.Namespace) -> Evaluation:
    """What folders are scored now, beside what was saved before."""
    if args.gt == "":
        raise OptionError("-g '': give the picture or folder of the ground truth")
    sources, files = read_inputs(args.input, args.recursive)
    parts = [load_json(path) for path in files]
    if sources:
        protocol = _protocol(args, parts)
        matching = Matching(args.recursive, args.allow_missing)
        checked_device(args.device)
        parts.append(
            evaluate(sources, args.gt, protocol, args.device, args.allow_download, matching)
        )
    evaluation = merge(parts)
    if differing := version_differences(parts):
        print(f"warning: scored with different versions: {', '.join(differing)}", file=sys.stderr)
    return evaluation


def _protocol(args: argparse.Namespace, saved: list[Evaluation]):
    """That of the options; without any, that of the saved scores beside which folders are put."""
    if not (saved and args.protocol is None and args.metrics is None):
        return make_protocol(args.protocol, args.metrics, args.crop_border, args.gt is not None)
    record = saved[0].protocol
    if record["with_reference"] and args.gt is None:
        raise OptionError("the saved scores were made against a ground truth; give it with -g")
    name = record["name"] if record["name"] in PROTOCOLS else None
    metrics = None if name else record["metrics"]
    return make_protocol(name, metrics, record["crop_border"], args.gt is not None)


def _print(evaluation: Evaluation, baseline: str) -> None:
    parts = [
        tables.describe(evaluation),
        tables.terminal_table(evaluation),
        tables.terminal_differences(evaluation, baseline),
        tables.terminal_noises(evaluation),
        "\n".join(f"missing {m.name}: {m.missing}" for m in evaluation.metrics if m.missing),
    ]
    print(printable("\n\n".join(part for part in parts if part)))


def _report_problems(evaluation: Evaluation, named: bool) -> int:
    found = [
        f"error: {run.source}: {name}: {problem}"
        for runs in evaluation.methods.values()
        for run in runs
        for name, problem in run.problems.items()
    ]
    for line in found:
        print(printable(line.replace("\n", "\\n")), file=sys.stderr)
    return 1 if found or (named and any(m.missing for m in evaluation.metrics)) else 0
