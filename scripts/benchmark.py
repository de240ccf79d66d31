"""Benchmark a model on test sets in the published layouts: pictures, scores, tables and a report.

python scripts/benchmark.py --data datasets/benchmarks -o results/benchmark --protocol osediff
    [--base mini] [--lora experiments/NAME] [--seeds 0 1 2]

Every folder of --data (or --data itself) that holds test_LR and test_HR is a set; lq and gt, or LR
and HR, are read too. datasets/README.md says where the sets come from. Written for each set:
OUTPUT/SET/bicubic, OUTPUT/SET/NAME/seed_0 ..., and OUTPUT/SET/report with index.html, scores.json,
scores.csv, table.md and table.tex; OUTPUT/table.md holds the tables of all sets.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

from gdpo_sr import evaluate, inference
from gdpo_sr.cli import run_main
from gdpo_sr.evaluation.results import natural_key
from gdpo_sr.metrics import PROTOCOLS
from gdpo_sr.types import DatasetError, OptionError
from gdpo_sr.writer import write_file

LAYOUTS = (("test_LR", "test_HR"), ("lq", "gt"), ("LR", "HR"))
_bicubic = runpy.run_path(str(Path(__file__).with_name("bicubic.py")))["main"]


def main(argv: list[str] | None = None) -> int:
    """Restore and score all sets; returns 1 if a picture failed or has no score."""
    arguments = _parser().parse_args(argv)
    if arguments.name == "bicubic":
        raise OptionError("--name bicubic is the baseline's; choose another name")
    sets = find_sets(arguments.data, arguments.sets)
    status = 0
    for name, (lr, hr) in sets.items():
        print(f"== {name}", flush=True)
        status |= run_set(arguments.output / name, lr, hr, arguments)
    tables = [
        f"## {name}\n\n" + (arguments.output / name / "report" / "table.md").read_text("utf-8")
        for name in sets
    ]
    write_file(arguments.output / "table.md", "\n".join(tables))
    print(f"tables of all sets: {arguments.output / 'table.md'}")
    return status


def find_sets(root: Path, wanted: list[str] | None) -> dict[str, tuple[Path, Path]]:
    """(LR folder, HR folder) of every set in `root`, by name.

    Raises:
        DatasetError: no set, or one of `wanted` is not there.
    """
    folders = [root, *sorted(root.glob("*/"), key=lambda p: natural_key(p.name))]
    sets = {}
    for folder in folders:
        for lr, hr in LAYOUTS:
            if (folder / lr).is_dir() and (folder / hr).is_dir():
                sets.setdefault(folder.resolve().name, (folder / lr, folder / hr))
    if not sets:
        pairs = ", ".join(" and ".join(pair) for pair in LAYOUTS)
        raise DatasetError(f"--data {root}: no folder with {pairs}; see datasets/README.md")
    absent = [name for name in wanted or [] if name not in sets]
    if absent:
        raise DatasetError(f"--sets {' '.join(absent)}: not in {root}; there are {', '.join(sets)}")
    return {name: pair for name, pair in sets.items() if not wanted or name in wanted}


def run_set(output: Path, lr: Path, hr: Path, arguments: argparse.Namespace) -> int:
    """Enlarge by bicubic and by the model with every seed, then score both."""
    _bicubic(["-i", str(lr), "-o", str(output / "bicubic"), "--scale", str(arguments.scale)])
    status, folders = 0, []
    for seed in arguments.seeds:
        folder = output / arguments.name / f"seed_{seed}"
        status |= inference.main(_inference_options(lr, folder, seed, arguments))
        folders.append(f"{arguments.name}={folder}")
    status |= evaluate.main(
        [
            *("-i", f"bicubic={output / 'bicubic'}", *folders),
            *("-g", str(hr), "--protocol", arguments.protocol, "--baseline", "bicubic"),
            *("--report", str(output / "report"), "--device", arguments.device),
            *(["--allow_download"] if arguments.allow_download else []),
        ]
    )
    return status


def _inference_options(lr: Path, folder: Path, seed: int, given: argparse.Namespace) -> list[str]:
    options = ["-i", str(lr), "-o", str(folder), "--base", given.base, "--seed", str(seed)]
    options += ["--scale", str(given.scale)]
    options += ["--lora", given.lora] if given.lora else []
    return options + ([] if given.resume else ["--overwrite"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Benchmark a model on published test sets.")
    add = parser.add_argument
    add("--data", required=True, type=Path, help="folder of test sets")
    add("--sets", nargs="+", metavar="SET", help="folders of it (all)")
    add("-o", "--output", required=True, type=Path, help="folder for everything")
    add("--base", default="mini", help="base model: mini, a folder or a hub id (mini)")
    add("--lora", metavar="RUN", help="experiments/NAME or an adapter folder (none)")
    add("--name", default="ours", help="of the model in the tables (ours)")
    add("--seeds", nargs="+", type=int, default=[0], help="a run of the model for each (0)")
    add("--scale", type=float, default=4)
    add("--protocol", choices=list(PROTOCOLS), default="gdpo", help="(gdpo)")
    add("--device", default="cpu", help="where metrics are computed (cpu)")
    add("--allow_download", action="store_true", help="let pyiqa fetch weights that are missing")
    add("--resume", action="store_true", help="keep pictures that are there (restore all again)")
    return parser


if __name__ == "__main__":
    sys.exit(run_main(main))
