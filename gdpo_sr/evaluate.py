"""Score pictures: `python evaluate.py -i RESULTS [MORE ...] -g GT [--protocol osediff] [--report
DIR]`; docs/evaluation.md says all of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gdpo_sr.evaluation import tables
from gdpo_sr.evaluation.folders import read_inputs
from gdpo_sr.evaluation.html_report import write_report
from gdpo_sr.evaluation.results import (
    Evaluation,
    load_json,
    merge,
    save_json,
    version_differences,
    write_text,
)
from gdpo_sr.evaluation.scoring import evaluate
from gdpo_sr.evaluation.summary import choose_baseline, summary_record
from gdpo_sr.metrics import PROTOCOLS, make_protocol
from gdpo_sr.types import OptionError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0; or 1 if a picture could not be read or has no score, or if a metric named by --metrics
        is missing; everything else is scored all the same.

    Raises:
        GDPOSRError: folders whose names do not match, an unknown metric, a bad option, runs of
            different protocols.
    """
    args = _parser().parse_args(argv)
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
    write_text(folder / "scores.csv", tables.per_image_csv(evaluation))
    write_text(folder / "table.md", tables.markdown(evaluation, baseline))
    write_text(folder / "table.tex", tables.latex(evaluation))


def _evaluation(args: argparse.Namespace) -> Evaluation:
    """What folders are scored now, beside what was saved before."""
    sources, files = read_inputs(args.input)
    parts = [load_json(path) for path in files]
    if sources:
        protocol = _protocol(args, parts)
        parts.append(evaluate(sources, args.gt, protocol, args.device, args.allow_download))
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
    print("\n\n".join(part for part in parts if part))


def _report_problems(evaluation: Evaluation, named: bool) -> int:
    found = [
        f"error: {run.source}: {name}: {problem}"
        for runs in evaluation.methods.values()
        for run in runs
        for name, problem in run.problems.items()
    ]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found or (named and any(m.missing for m in evaluation.metrics)) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description="Score pictures, compare methods."
    )
    add = parser.add_argument
    add(
        "-i",
        "--input",
        required=True,
        nargs="+",
        metavar="RESULTS",
        help="folders or pictures, one per method: FOLDER or NAME=FOLDER; the same NAME again, or"
        " a folder of folders, gives several runs (seeds) of it; a .json file of saved scores",
    )
    add("-g", "--gt", help="picture or folder of ground truth, matched by name without suffix")
    add(
        "--protocol",
        choices=list(PROTOCOLS),
        help="published set of metrics (offline: what needs no download)",
    )
    add("--metrics", nargs="+", metavar="NAME", help="instead of a protocol: any names of pyiqa")
    add("--crop_border", type=int, default=0, help="pixels cut off at each side (0)")
    add("--baseline", metavar="NAME", help="method that the others are compared with (the first)")
    add("--save_json", metavar="FILE", help="write protocol, scores per picture and means")
    add("--save", metavar="DIR", help="write scores.json, scores.csv, table.md and table.tex")
    add("--report", metavar="DIR", help="these and a page to look at, index.html")
    add("--device", default="cpu", help="where metrics are computed (cpu)")
    add("--allow_download", action="store_true", help="let pyiqa fetch weights that are missing")
    return parser
