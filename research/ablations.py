"""Run the studies of research/options/*.yml on the embedded base and write the evidence.

Run, as often as it takes; every call goes on where the last one stopped:
    python research/ablations.py --minutes 60
    python research/ablations.py --minutes 60 --sets photos   # without datasets/benchmarks
    python research/ablations.py --minutes 0          # only the document, from the results so far

Settings are in research/options/common.yml and one file for each study. `--tune` runs the
studies of research/options/tune/ instead, on photos that are held out of the training photos.
New scores are added to OUT/scores.jsonl; those that came with the repository count too.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from ablation_study.document import write_document
from ablation_study.plan import Common, Job, Study, load_studies
from ablation_study.results import Results, run_name
from ablation_study.runner import Runner, tuning_folders

from gdpo_sr.cli import run_main
from gdpo_sr.types import OptionError

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ROOT / "research" / "options"
DOCUMENT = ROOT / "research" / "evidence" / "evidence.md"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="Run the ablations and write the evidence.")
    parser.add_argument("--options", type=Path, default=OPTIONS, help="folder of the studies")
    parser.add_argument("--only", nargs="+", default=[], metavar="STUDY", help="such as b_losses")
    parser.add_argument("--minutes", type=float, default=60.0, help="budget of this call")
    parser.add_argument("--out", type=Path, default=Path("results/ablations"), help="new results")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="written at the end")
    parser.add_argument("--sets", nargs="+", default=[], help="photos to measure on (all)")
    parser.add_argument("--tune", action="store_true", help="run the studies in FOLDER/tune")
    parser.add_argument(
        "--share",
        default="1/1",
        metavar="K/N",
        help="run the K-th of N shares of the runs: N calls side by side, one for each core",
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    return parser.parse_args(argv)


def share_of(text: str) -> tuple[int, int]:
    """K/N as (K - 1, N)."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise OptionError(f"--share {text!r}: write K/N with 1 <= K <= N, such as 1/2")
    return int(number) - 1, int(count)


def planned(common: Common, studies: list[Study], share: tuple[int, int]) -> list[Job]:
    """Jobs of a share, one seed of everything before the next; a training falls to one share,
    whatever the number of rows that it stands in.
    """
    seeds = {study.name: common.seeds_of(study) for study in studies}
    jobs = [
        job
        for seed in sorted({seed for own in seeds.values() for seed in own})
        for study in studies
        if seed in seeds[study.name]
        for job in study.jobs(seed)
    ]
    names = {job: run_name(job, common) for job in jobs}
    order = {name: index for index, name in enumerate(dict.fromkeys(names.values()))}
    return [job for job in jobs if order[names[job]] % share[1] == share[0]]


def run_studies(runner: Runner, jobs: list[Job], deadline: float) -> bool:
    """Run what is missing. Returns whether all is done."""
    alarm = threading.Timer(
        max(deadline - time.monotonic(), 0), lambda: os.kill(os.getpid(), signal.SIGINT)
    )
    alarm.daemon = True
    alarm.start()
    try:
        for number, job in enumerate(jobs, 1):
            if time.monotonic() >= deadline and not runner.is_done(job):
                return False
            print(f"[{number}/{len(jobs)}] {job.label}", flush=True)
            if not runner.run(job):
                return False
    except KeyboardInterrupt:
        return False
    finally:
        alarm.cancel()
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parse_arguments(argv)
    deadline = time.monotonic() + 60 * arguments.minutes
    torch.set_num_threads(arguments.threads)
    common, studies = load_studies(arguments.options, arguments.only, arguments.tune)
    if arguments.tune:
        common = common.with_folders(*tuning_folders(common, arguments.out))
    else:
        common = common.only_sets(arguments.sets)
    runner = Runner(common, Results(arguments.out))
    jobs = planned(common, studies, share_of(arguments.share))
    done = arguments.minutes > 0 and run_studies(runner, jobs, deadline)
    document = arguments.out / "tuning.md" if arguments.tune else arguments.document
    write_document(document, runner, studies)
    print(f"{'all done' if done else 'stopped; call again to go on'}: {document}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
