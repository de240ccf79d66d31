"""Stop a run between two iterations, after its state is saved, when Ctrl-C or SIGTERM asks for
it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ECHO = 1.0
"""Seconds: Ctrl-C reaches a launched process twice, from the terminal and from its launcher."""


class StopSignal:
    """Inside the `with` block the first SIGINT or SIGTERM sets `requested`; a SIGINT more than a
    second later interrupts at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._first, self._at_once = 0.0, False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread: nobody can press Ctrl-C here
                break
        return self

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, the first signal interrupts: the state is saved already."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._at_once:
            raise KeyboardInterrupt
        now = time.monotonic()
        if not self.requested:
            self.requested, self._first = True, now
        elif number == signal.SIGINT and now > self._first + ECHO:
            raise KeyboardInterrupt

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
