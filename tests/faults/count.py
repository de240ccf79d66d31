"""How many faults of each kind were tried, and how many of them went wrong.

python -m tests.faults.count                      # all kinds: about 25 minutes on half a core
python -m tests.faults.count --only states yaml   # some of them
python -m tests.faults.count --times 0.1          # a tenth of the cases
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import diffusers
import torch
import transformers

from tests.faults.damage import KINDS, damaged
from tests.faults.hostile import attack
from tests.faults.json_mutations import spoil_adapters, spoil_bases, write_adapters
from tests.faults.kills import (
    SIGNALS,
    UPDATES,
    VARIANTS,
    random_moments,
    resume_copies,
    two_processes,
)
from tests.faults.runs import FILES, forked, train
from tests.faults.tally import Tally
from tests.faults.yaml_mutations import spoil_options
from tests.tiny_base import tiny_base

Kind = Callable[[Path, Path, Callable[[float], int]], Iterator[Tally]]


def operations(base: Path, root: Path, some: Callable[[float], int]) -> Iterator[Tally]:
    """Kills before file operations."""
    for stage in FILES:
        yield resume_copies(stage, base, root / stage, some(1000) / 1000, **UPDATES)


def moments(base: Path, root: Path, some: Callable[[float], int]) -> Iterator[Tally]:
    """Signals to one process."""
    for number in SIGNALS:
        for index, (name, changes) in enumerate(VARIANTS.items()):
            stage = list(FILES)[(number + index) % 2]
            place = root / f"{number}{name}"
            yield random_moments(stage, base, place, number, some(4), **changes)


def processes(base: Path, root: Path, some: Callable[[float], int]) -> Iterator[Tally]:
    """Signals to two processes."""
    for number in SIGNALS:
        yield two_processes(base, root / str(number), number, some(3))


def states(base: Path, root: Path, some: Callable[[float], int]) -> Iterator[Tally]:
    """Damaged states."""
    assert forked(lambda: train("stage2", base, root, train__total_iter=2)) == 0
    for kind in KINDS:
        yield damaged(root / "run", root / kind, kind, some(200))


def yaml(base: Path, root: Path, some: Callable[[float], int]) -> Iterator[Tally]:
    """Options files."""
    yield spoil_options(root, range(1000, 1000 + some(3000)))


def json(base: Path, root: Path, some: Callable[[float], int]) -> Iterator[Tally]:
    """Bases and adapters."""
    yield spoil_bases(base, root / "base", range(some(300)))
    yield spoil_adapters(base, write_adapters(base, root), root / "place", range(some(200)))


def hostile(base: Path, root: Path, some: Callable[[float], int]) -> Iterator[Tally]:
    """Files that would run code."""
    yield attack(base, write_adapters(base, root)[-1], root)


ALL: dict[str, Kind] = {
    f.__name__: f for f in (states, yaml, json, hostile, operations, moments, processes)
}


def main() -> int:
    """Print the table; 1 if a case went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--times", type=float, default=1, help="share of the cases")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
    wrong: list[str] = []
    print("| kind | tried | refused | wrong |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        base = tiny_base(Path(folder) / "base")
        for name in args.only:
            (root := Path(folder) / name).mkdir()
            for tally in ALL[name](base, root, lambda count: max(1, round(count * args.times))):
                print(tally.row(), flush=True)
                print("\n".join(filter(None, [tally.note, *tally.wrong])), file=sys.stderr)
                wrong += tally.wrong
    seconds = sum(os.times()[:4])
    print(f"\n{len(wrong)} wrong; {seconds:.0f} s of a core, {time.strftime('%F')}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
