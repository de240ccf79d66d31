"""Exponential moving average of trained parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class ParameterAverage:
    """Average of `parameters` with `decay` per update; decay 0 follows them exactly and keeps no
    copy.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.average = [p.detach().clone() for p in parameters] if decay > 0 else []

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current values."""
        for average, parameter in zip(self.average, self.parameters, strict=bool(self.average)):
            average.lerp_(parameter, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the parameters hold their averages."""
        if not self.average:
            yield
            return
        current = [p.detach().clone() for p in self.parameters]
        self._copy(self.average)
        try:
            yield
        finally:
            self._copy(current)

    @torch.no_grad()
    def _copy(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        """The averages."""
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, list[torch.Tensor]]) -> None:
        """Restore what `state_dict` returned."""
        for average, saved in zip(self.average, state["average"], strict=True):
            average.copy_(saved)
