"""Seconds spent in parts of an update."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Timer:
    """Adds up seconds by part of an update. A GPU works on after a call has returned, so clocks are
    read when it has finished; that costs time, and so is done in updates that are logged only.

    Args:
        device: where the networks are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.on = device, False
        self.seconds: dict[str, float] = defaultdict(float)

    def start(self, on: bool) -> None:
        """Begin an update; `on`: its times will be logged."""
        self.on = on
        self.seconds.clear()
        self._start = self._now() if on else 0.0

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time inside to a part."""
        start = self._now() if self.on else 0.0
        yield
        if self.on:
            self.seconds[part] += self._now() - start

    def logs(self) -> dict[str, float]:
        """`seconds_<part>` and `seconds_total` of the update; empty where nobody asked."""
        if not self.on:
            return {}
        parts = {f"seconds_{part}": value for part, value in self.seconds.items()}
        return {**parts, "seconds_total": self._now() - self._start}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
