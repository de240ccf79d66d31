"""Checkpoints: folders `training_states/<iteration>` that appear only when they are complete."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from gdpo_sr.types import CheckpointError

STATE_FILE = "state.pt"


def save_state(folder: Path, iteration: int, state: dict[str, Any], keep: int) -> Path:
    """Write `state` for `iteration` under a temporary name, rename it, drop all but the newest
    `keep`.
    """
    target = folder / f"{iteration:07d}"
    temporary = folder / f"{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    torch.save(state, temporary / STATE_FILE)
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)
    for old in saved_states(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def saved_states(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.name.isdigit() and (f / STATE_FILE).is_file())


def load_state(folder: Path) -> dict[str, Any]:
    """The state in a checkpoint folder.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        raise CheckpointError(
            f"path.resume_state '{folder}' holds no {STATE_FILE}: give a folder such as "
            "experiments/NAME/training_states/0000100"
        )
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        raise CheckpointError(
            f"'{file}' cannot be read ({type(error).__name__}): delete its folder and resume from "
            "the one before"
        ) from error


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
