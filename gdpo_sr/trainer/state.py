"""States of a run: folders `training_states/<iteration>` with a checksum of every file, and which
of them are kept.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gdpo_sr.types import CheckpointError
from gdpo_sr.writer import new_folder, remove_folder

STATE_FILE = "state.pt"
SUMS_FILE = "SHA256SUMS"
NEEDED = {"iteration", "draws", "trained", "random", "optimizer", "schedule"}
UNREADABLE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)
"""What torch.load raises on bytes that are no state."""

ODD_VALUES = (ValueError, ArithmeticError, RuntimeError)
"""What numbers and tensors raise that are of another kind than they should be."""
Check = Callable[[dict[str, Any], str], None]


@dataclass
class StateFolder:
    """The states of a run, and the models written beside them.

    Attributes:
        states, models: folders of both.
        latest: name of the newest model; those of kept states have the iteration in place of
            "latest".
        keep: how many of the newest are kept.
        best, healthy: iterations that are kept besides: best validated, last one without trouble.
    """

    states: Path
    models: Path
    latest: str
    keep: int
    best: int | None = None
    healthy: int | None = None

    def folder_of(self, iteration: int) -> Path:
        """Where a state is."""
        return self.states / f"{iteration:07d}"

    def model_of(self, iteration: int) -> str:
        """Name of a state's model."""
        return self.latest.replace("latest", f"{iteration:07d}")

    def save(self, iteration: int, state: dict[str, Any]) -> Path:
        """Write a state, whole or not at all."""
        target = self.folder_of(iteration)
        with new_folder(target) as folder:
            try:
                torch.save(state, folder / STATE_FILE)
            except RuntimeError as error:  # torch's word for a disk that is full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            lines = [f"{sha256(f)}  {f.name}\n" for f in sorted(folder.iterdir())]
            (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")
        return target

    def drop_old(self) -> None:
        """Remove states that need not be kept, and their models."""
        saved = saved_states(self.states)
        kept = {int(folder.name) for folder in saved[-self.keep :]} | {self.best, self.healthy}
        for folder in saved:
            if int(folder.name) not in kept:
                remove_folder(self.models / self.model_of(int(folder.name)))
                remove_folder(folder)

    def newest(self, check: Check, told: list[str]) -> tuple[Path, dict[str, Any]] | None:
        """The newest state that is whole and passes `check`; sentences in `told` name every one
        that is not.

        Raises:
            CheckpointError: there are states, and none is good.
        """
        first: CheckpointError | None = None
        for folder in reversed(_numbered(self.states)):
            try:
                state = load_state(folder)
                with as_saved(str(folder)):
                    check(state, str(folder))
            except CheckpointError as error:
                first = first or error
                told.append(f"{error}; nothing of it is used, and the one before is tried")
                continue
            return folder, state
        if first is not None:
            raise first
        return None

    def set_aside_after(self, iteration: int) -> Path | None:
        """Move states of later iterations, which a run that goes on from here will make again, and
        their models to a folder `set_aside_<time>`. Returns that of the states.
        """
        later = [f for f in _numbered(self.states) if int(f.name) > iteration]
        stamp = f"set_aside_{time.strftime('%Y%m%d_%H%M%S')}"
        for folder in reversed(later):
            model = self.models / self.model_of(int(folder.name))
            if model.is_dir():
                move_into(model, self.models / stamp)
            move_into(folder, self.states / stamp)
        return self.states / stamp if later else None


@contextmanager
def as_saved(source: str) -> Iterator[None]:
    """Inside, a state is used whose bytes are whole: what does not fit is another program's.

    Raises:
        CheckpointError: a part of it is missing, or of another kind.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, *ODD_VALUES) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CheckpointError(
            f"'{source}' is no state of such a run ({reason}): resume from another state with "
            "path.resume_state"
        ) from error


def move_into(folder: Path, parent: Path) -> None:
    """Move a folder into another one of the same file system."""
    parent.mkdir(exist_ok=True)
    target, count = parent / folder.name, 1
    while target.exists():
        target, count = parent / f"{folder.name}_{count}", count + 1
    folder.rename(target)


def saved_states(folder: Path) -> list[Path]:
    """Complete states, oldest first."""
    return [f for f in _numbered(folder) if (f / STATE_FILE).is_file()]


def _numbered(folder: Path) -> list[Path]:
    """Folders of states, whatever is left in them, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.name.isdecimal() and f.is_dir())


def load_state(folder: Path) -> dict[str, Any]:
    """The state in a folder.

    Raises:
        CheckpointError: it is missing, damaged, or no state of a run.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        raise CheckpointError(
            f"path.resume_state '{folder}' holds no {STATE_FILE}: give a folder such as "
            "experiments/NAME/training_states/0000100"
        )
    check_sums(folder)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise CheckpointError(
            f"'{file}' cannot be read ({type(error).__name__}): it is damaged; resume from another "
            "state with path.resume_state"
        ) from error
    if not isinstance(state, dict) or not NEEDED <= state.keys():
        raise CheckpointError(f"'{file}' is no state of a run: move it elsewhere")
    if "health" in state and not (folder / SUMS_FILE).is_file():  # version 0.1 wrote neither
        raise CheckpointError(
            f"'{folder}' has lost its {SUMS_FILE}, so nobody knows whether it is whole: resume "
            "from another state with path.resume_state"
        )
    if folder.name.isdecimal() and str(int(folder.name)) != str(state["iteration"]):
        raise CheckpointError(
            f"'{file}' is of iteration {state['iteration']}, not of its folder's: move it elsewhere"
        )
    return state


def check_sums(folder: Path) -> None:
    """Compare the files of a state with their sums; states of version 0.1 have none.

    Raises:
        CheckpointError: a file is missing or another one.
    """
    sums = folder / SUMS_FILE
    if not sums.is_file():
        return
    lines = sums.read_text(encoding="utf-8", errors="replace").splitlines()
    wanted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in {*wanted, STATE_FILE}:
        file = folder / Path(name).name
        if not file.is_file() or sha256(file) != wanted.get(name):
            raise CheckpointError(
                f"'{file}' is damaged: its SHA-256 is not that of {SUMS_FILE}; resume from another "
                "state with path.resume_state"
            )


def sha256(file: Path) -> str:
    """Of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def check_state(
    state: dict[str, Any],
    source: str,
    shapes: dict[str, torch.Size],
    draws_per_update: int,
) -> None:
    """Refuse a state that this run cannot go on from.

    Args:
        state: as saved.
        source: where it was, for messages.
        shapes: of the trained parameters, by name.
        draws_per_update: training pictures per update, over all processes.

    Raises:
        CheckpointError: other weights or pictures per update.
    """
    saved = {name: value.shape for name, value in state["trained"].items()}
    names = sorted(n for n in shapes.keys() | saved.keys() if shapes.get(n) != saved.get(n))
    if names:
        raise CheckpointError(
            f"'{source}' was saved for other weights ({len(names)} differ, first {names[0]}): "
            "use the base and lora.rank of that run, or another name to start afresh"
        )
    if state["draws"] != state["iteration"] * draws_per_update:
        raise CheckpointError(
            f"'{source}' had {state['draws'] // max(state['iteration'], 1)} pictures per update, "
            f"this run has {draws_per_update}: batch_size * accumulation * processes must be equal"
        )
