"""Divergence is an end, not a line in a log: what is wrong with updates, and when it is enough."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gdpo_sr.config.run_options import DivergenceOptions
from gdpo_sr.types import DivergedError

NUMBERS = "lower train.optim_g.lr, set train.grad_clip, or take train.mixed_precision: bf16 or no"
LOSS, GRADIENT, WEIGHTS = (f"{what} not finite" for what in ("loss", "gradient", "weights"))


class Health:
    """Counts troubled updates, by cause.

    Args:
        options: how many of the last updates may be troubled.
        total: updates of the run; a short one ends when half of them are troubled.
        logger: gets a warning when a cause shows for the first time.
    """

    def __init__(self, options: DivergenceOptions, total: int, logger: logging.Logger) -> None:
        self.window = options.window
        self.limit = min(options.limit, max(total // 2, min(total, 3)))
        self.logger = logger
        self.seen: dict[str, list[int]] = {}
        self.remedies: dict[str, str] = {}

    def note(self, iteration: int, causes: Mapping[str, str]) -> None:
        """One update: what is wrong with it, and what to try, by cause."""
        for cause, remedy in causes.items():
            if cause not in self.seen:
                self.logger.warning(
                    "update %d: %s; the run ends when %d of %d updates are so: %s",
                    iteration,
                    cause,
                    self.limit,
                    self.window,
                    remedy,
                )
            self.seen.setdefault(cause, []).append(iteration)
            self.remedies[cause] = remedy
        for cause, updates in self.seen.items():
            self.seen[cause] = [i for i in updates if i > iteration - self.window]

    def is_good(self, iteration: int) -> bool:
        """Whether a state of this update is worth going back to."""
        counts = self.seen.values()
        return all(iteration not in found and len(found) < self.limit / 2 for found in counts)

    def check(self, iteration: int, good: Path | None) -> None:
        """End the run if a cause has shown too often; `good` is the last healthy state.

        Raises:
            DivergedError: it has.
        """
        for cause, updates in self.seen.items():
            if len(updates) >= self.limit:
                raise DivergedError(
                    f"update {iteration}: {cause} in {len(updates)} of the last {self.window} "
                    f"updates: the run ends. Last healthy state: {good or 'none was saved'}. Try: "
                    f"{self.remedies.get(cause, NUMBERS)}; go on from it with path.resume_state"
                )

    def state_dict(self) -> dict[str, Any]:
        """The troubled updates."""
        return dict(self.seen)

    def load_state_dict(self, state: Mapping[str, list[int]]) -> None:
        """Restore what `state_dict` returned."""
        self.seen = {cause: [int(i) for i in updates] for cause, updates in state.items()}


def causes_of(logs: Mapping[str, float], weights_are_finite: bool) -> dict[str, str]:
    """What is wrong with an update of any stage; `logs` hold `loss` and `gradient_norm`s."""
    norms = [value for name, value in logs.items() if name.endswith("gradient_norm")]
    found = {
        LOSS: not math.isfinite(logs["loss"]),
        GRADIENT: not all(map(math.isfinite, norms)),
        WEIGHTS: not weights_are_finite,
    }
    return {cause: NUMBERS for cause, bad in found.items() if bad}
