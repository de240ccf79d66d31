"""Do the tests see small changes of the step, the losses, the rewards and the schedule?

    python -m tests.mutants                         # all of them, with a table by file
    python -m tests.mutants --sample 60 --seed 1    # so many, drawn at random
    python -m tests.mutants --only losses/grpo.py   # of files whose path ends so, in this order

Each change is made alone, in memory: an operator, a comparison, a constant, a pair of swapped
arguments or names. Then the quick unit tests of that file run; a change that they let pass is
printed as alive. Those in `HARMLESS` change nothing that could be seen, for the reason given.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.mutants.changes import ROOT, Mutant, mutants_of
from tests.mutants.harmless import HARMLESS
from tests.mutants.processes import forked
from tests.mutants.targets import TARGETS

WANTED = 0.95


def verdicts(file: str, mutants: list[Mutant]) -> Iterator[tuple[Mutant, bool]]:
    """Every change of a file, and whether its tests see it."""
    with forked(lambda results: run_session(file, mutants, results)) as results:
        for _ in mutants:
            try:
                index, seen = results.recv()
            except EOFError:
                raise SystemExit(
                    f"{' '.join(TARGETS[file])}: fails without any change; mend it first"
                ) from None
            yield mutants[index], seen


def run_session(file: str, mutants: list[Mutant], results: Connection) -> None:
    """In a fork: the tests of a file, collected once for all its changes."""
    import pytest

    from tests.mutants.session import MutantSession

    os.chdir(ROOT)
    options = ["-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
    pytest.main([*options, *TARGETS[file]], plugins=[MutantSession(file, mutants, results)])


def preload() -> None:
    """What is slow to import and not of this repository."""
    sys.dont_write_bytecode = True
    import accelerate
    import diffusers
    import peft
    import pyiqa
    import torch
    import transformers

    assert all((accelerate, peft, pyiqa, transformers.CLIPTextModel))
    assert diffusers.UNet2DConditionModel
    torch.set_num_threads(1)


def chosen_mutants(args: argparse.Namespace) -> dict[str, list[Mutant]]:
    """By file."""
    files = dict.fromkeys(f for end in args.only for f in TARGETS if f.endswith(end))
    every = [m for file in files for m in mutants_of(file)]
    if args.sample is not None:
        every = random.Random(args.seed).sample(every, min(args.sample, len(every)))
    return {file: [m for m in every if m.file == file] for file in files}


def main() -> int:
    """Print what lives and a table; the status is 1 if more than one in twenty is unexplained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, help="so many changes, drawn at random (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    parser.add_argument("--only", nargs="+", default=[""], help="files whose path ends so (all)")
    parser.add_argument("--list", action="store_true", help="print the changes and make none")
    args = parser.parse_args()
    chosen = {file: mutants for file, mutants in chosen_mutants(args).items() if mutants}
    if args.list:
        print(*(m for mutants in chosen.values() for m in mutants), sep="\n")
        return 0
    preload()
    rows = [shown(tally(file, mutants)) for file, mutants in chosen.items()]
    print(f"\n{'file':28} changes  seen  explained  alive  seconds")
    for row in [*rows, ("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:]))]:
        shown(row)
    count, alive = sum(row[1] for row in rows), sum(row[4] for row in rows)
    print(f"{100 * (1 - alive / max(count, 1)):.1f} % seen or explained")
    return int(alive > (1 - WANTED) * count)


Row = tuple[str, int, int, int, int, float]


def shown(row: Row) -> Row:
    """Print a row of the table."""
    print("{:28} {:7} {:5} {:10} {:6} {:8.0f}".format(*row), flush=True)
    return row


def tally(file: str, mutants: list[Mutant]) -> Row:
    """Row of the table: changes, seen, explained, alive, seconds."""
    seen = explained = alive = 0
    start = time.perf_counter()
    for mutant, is_seen in verdicts(file, mutants):
        seen += is_seen
        if is_seen:
            continue
        if str(mutant) in HARMLESS:
            explained += 1
        else:
            alive += 1
            print(f"alive: line {mutant.line}: {mutant}", flush=True)
    return file, len(mutants), seen, explained, alive, time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main())
