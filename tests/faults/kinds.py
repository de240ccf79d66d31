"""All kinds of faults, each a function that tries some cases and gives their tallies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import diffusers
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
from tests.faults.option_changes import change_options
from tests.faults.picture_mutations import spoil_pictures
from tests.faults.runs import FILES, forked, train
from tests.faults.tally import Tally
from tests.faults.yaml_mutations import spoil_options

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
            yield random_moments(stage, base, place, number, some(2), **changes)


def processes(base: Path, root: Path, some: Callable[[float], int]) -> Iterator[Tally]:
    """Signals to two processes."""
    for number in SIGNALS:
        yield two_processes(base, root / str(number), number, some(2))


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
    yield spoil_bases(base, root / "base", range(some(160)))
    yield spoil_adapters(base, write_adapters(base, root), root / "place", range(some(120)))


def pictures(base: Path, root: Path, some: Callable[[float], int]) -> Iterator[Tally]:
    """Picture files."""
    yield spoil_pictures(root, range(some(3000)))


def resumes(base: Path, root: Path, some: Callable[[float], int]) -> Iterator[Tally]:
    """Options changed when a run goes on."""
    for stage in FILES:
        (place := root / stage).mkdir()
        yield change_options(stage, base, place, some(1000) / 1000)


def hostile(base: Path, root: Path, some: Callable[[float], int]) -> Iterator[Tally]:
    """Files that would run code."""
    yield attack(base, write_adapters(base, root)[-1], root)


ALL: dict[str, Kind] = {
    f.__name__: f
    for f in (states, yaml, json, pictures, hostile, resumes, operations, moments, processes)
}


def quiet() -> None:
    """Neither our log nor the libraries' between the rows."""
    logging.disable(logging.ERROR)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
