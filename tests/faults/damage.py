"""States with a bit flipped, cut, emptied, swapped or without a file: which one is used then."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import torch

from gdpo_sr.trainer.state import STATE_FILE, SUMS_FILE, StateFolder, saved_states
from tests.faults.tally import Tally


def flip(file: Path, draw: random.Random) -> None:
    """One bit, anywhere."""
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def harm(state: Path, other: Path, kind: str, draw: random.Random) -> None:
    """Damage a state in a way that `KINDS` names."""
    name = draw.choice([STATE_FILE, SUMS_FILE])
    if kind == "bit":
        flip(state / name, draw)
    elif kind == "cut":
        data = (state / name).read_bytes()
        (state / name).write_bytes(data[: draw.randrange(len(data) - 1)])  # more than a line end
    elif kind == "gone":
        (state / name).unlink()
    elif kind == "foreign":
        torch.save({"weights": torch.zeros(3)}, state / STATE_FILE)
        (state / SUMS_FILE).unlink()
    elif kind == "other":  # of another iteration, with its sums or without
        shutil.copytree(other, state, dirs_exist_ok=True)
        if draw.random() < 0.5:
            (state / SUMS_FILE).unlink()
    else:
        (state / STATE_FILE).write_bytes(draw.randbytes(draw.choice([0, 1, 4096])))


KINDS = ("bit", "cut", "gone", "foreign", "other", "noise")


def damaged(run: Path, place: Path, kind: str, times: int) -> Tally:
    """Damage the newest of a run's states: it is named, and the one before is used."""
    tally = Tally(f"states: {kind}")
    for seed in range(times):
        draw = random.Random(f"{kind} {seed}")
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(run / "training_states", place)
        *_, before, newest = saved_states(place)
        harm(newest, before, kind, draw)
        told: list[str] = []
        with tally.case(f"{kind} {seed}"):
            found = StateFolder(place, place, "lora_latest", 2).newest(lambda *_: None, told)
            assert found is not None and found[0] == before, "it is used"
            assert not (newest / STATE_FILE).exists() or newest.name in told[0], told
    return tally
