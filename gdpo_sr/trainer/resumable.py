"""What a run must keep to go on: saved together, restored together, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn

from gdpo_sr.trainer.alarms import relative_gain
from gdpo_sr.trainer.health import Health
from gdpo_sr.trainer.report import Comparison, mean
from gdpo_sr.trainer.stage import Stage
from gdpo_sr.trainer.state import (
    StateFolder,
    as_saved,
    check_state,
    load_state,
    saved_states,
)
from gdpo_sr.types import CheckpointError


class Resumable(Stage):
    """The part of a run that saves and resumes it; `BaseModel` sets the attributes."""

    states: StateFolder
    health: Health
    rank: int
    draws_per_update: int
    told: list[str]
    """What the log is to say of the states, once it is open."""
    best_gain: float | None = None
    """Of the rewarded metrics, in the best validation without an alarm."""

    def open_states(self) -> StateFolder:
        """Where this run's states are; nothing is read or written."""
        p, keep = self.paths, self.options.logger.keep_checkpoints
        return StateFolder(p.training_states, p.models, self.latest, keep)

    @property
    def all_trained(self) -> dict[str, nn.Parameter]:
        """Trained parameters of every network, by name."""
        others = [other.parameters for other in self.beside.values()]
        return {name: p for part in [self.trained, *others] for name, p in part.items()}

    def check_space(self) -> None:
        """Refuse to start where two checkpoints do not fit on the disk.

        Raises:
            CheckpointError: they do not.
        """
        copies = 4 if self.options.train.ema_decay else 3  # weights and AdamW's two moments
        trained = sum(4 * p.numel() for p in self.all_trained.values())
        need = 2 * (copies * trained + 2 * self.model_bytes())
        folder = self.paths.folder
        existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        free = shutil.disk_usage(existing).free
        if free < need:
            raise CheckpointError(
                f"'{folder}': {free / 2**20:.0f} MiB are free, and two checkpoints take "
                f"{need / 2**20:.0f} MiB: free space, or choose another path.experiments_root"
            )

    # Save ------------------------------------------------------------------------------------

    def save_checkpoint(self) -> None:
        """Everything the run needs to go on, then the model that users load."""
        if self.health.is_good(self.iteration):
            self.states.healthy = self.iteration
        state = self._state()
        if self.accelerator.is_main_process:
            if not self.paths.folder.is_dir():
                raise CheckpointError(
                    f"'{self.paths.folder}' is gone, deleted or moved while its run trained: put "
                    "it back and start again with --auto_resume"
                )
            self.states.save(self.iteration, state)
            self._save_models()
            self.states.drop_old()
        self.accelerator.wait_for_everyone()

    def _state(self) -> dict[str, Any]:
        """All processes call this together."""
        kept = {"best": self.states.best, "healthy": self.states.healthy, "gain": self.best_gain}
        return {
            **self.weight_update.state_dict(),
            "iteration": self.iteration,
            "draws": self.iteration * self.draws_per_update,
            "trained": {name: p.detach().cpu() for name, p in self.all_trained.items()},
            "random": gather_object([self.random.state_dict()]),
            "beside": {name: other.state_dict() for name, other in self.beside.items()},
            "kept": kept,
            "health": self.health.state_dict(),
            "extra": self.extra_state(),
        }

    def _save_models(self) -> None:
        """The model of this state, under its own name and as the newest; the state may be another
        run's.
        """
        names = [self.latest]
        if self.states.folder_of(self.iteration).is_dir():
            names.insert(0, self.states.model_of(self.iteration))
        with self.weight_update.average.applied():
            for name in names:
                self.save_model(name)

    def note_validation(self, comparison: Comparison, verdict: dict[str, Any]) -> None:
        """Keep the state of the best validation that raised no alarm (main process only)."""
        gain = mean([relative_gain(row) for row in comparison.metrics if row.rewarded])
        alarm = verdict.get("alarm", {}).get("raised", False)
        if self.iteration and not alarm and (self.best_gain is None or gain > self.best_gain):
            self.best_gain, self.states.best = gain, self.iteration
            self.states.drop_old()

    def way_on(self) -> str:
        """What to do with a run that was stopped."""
        if saved_states(self.paths.training_states):
            return "--auto_resume goes on"
        return "no state was saved yet, and --auto_resume starts afresh"

    # Resume ----------------------------------------------------------------------------------

    def resume(self, auto: bool = True) -> bool:
        """Go on from a state, see `load_newest`. False if there is none."""
        folder = self.load_newest(auto)
        if folder is None:
            return False
        self.settle(folder)
        return True

    def load_newest(self, auto: bool) -> Path | None:
        """Restore the run's newest good state; without one, or with `auto` false, that of
        `path.resume_state`. Nothing is written. Returns its folder, or None if there is none.

        Raises:
            CheckpointError: no state can be read, or it belongs to another architecture or batch
                layout.
        """
        given = self.options.path.resume_state
        self.told = []
        found = self.states.newest(self._check, self.told) if auto or given is None else None
        if found is None and given is None:
            return None
        if found is None:
            found = Path(given), load_state(Path(given))
        elif given is not None and found[0].resolve() != Path(given).resolve():
            self.told.append(
                "path.resume_state is not used, --auto_resume goes on from this run's newest "
                "state: leave --auto_resume out to go back to it"
            )
        folder, state = found
        with as_saved(str(folder)):
            self._load_state(state, str(folder))
        return folder

    def _check(self, state: dict[str, Any], source: str) -> None:
        shapes = {name: p.shape for name, p in self.all_trained.items()}
        check_state(state, source, shapes, self.draws_per_update)

    def _load_state(self, state: dict[str, Any], source: str) -> None:
        self._check(state, source)
        with torch.no_grad():
            for name, parameter in self.all_trained.items():
                parameter.copy_(state["trained"][name])
        self.weight_update.load_state_dict(state)
        extra = state.get("extra", {})
        for name, other in self.beside.items():  # version 0.1 kept them in `extra`
            other.load_state_dict(state.get("beside", extra)[name])
        self.random.load_state_dict(state["random"][self.rank % len(state["random"])])
        self.load_extra_state(extra)
        self.iteration = int(state["iteration"])
        kept = state.get("kept", {})
        self.states.best, self.states.healthy = (
            None if kept.get(name) is None else int(kept[name]) for name in ("best", "healthy")
        )
        self.best_gain = None if kept.get("gain") is None else float(kept["gain"])
        self.health.load_state_dict(state.get("health", {}))

    def settle(self, folder: Path) -> None:
        """After `load_newest`: move later states aside, and write the models of this one again,
        since the run may have been killed before they were whole.
        """
        for sentence in self.told:
            self.logger.warning(sentence)
        self.logger.info("resumed from %s at iteration %d", folder, self.iteration)
        if self.accelerator.is_main_process:
            aside = self.states.set_aside_after(self.iteration)
            if aside is not None:
                self.logger.warning("states after %d are now in %s", self.iteration, aside)
            self._save_models()
        self.accelerator.wait_for_everyone()
