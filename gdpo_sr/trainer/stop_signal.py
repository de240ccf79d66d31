"""Stop a run between two iterations, after its state is saved, when Ctrl-C or SIGTERM asks for
it; or at once, where all is saved.
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

    Args:
        at_once: but for the `patient` parts, the first signal interrupts, too.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.requested = False
        self._first, self._at_once, self._failing = 0.0, at_once, False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread: nobody can press Ctrl-C here
                break
        return self

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Inside, the first signal is a request. Once an error has left it, SIGTERM does nothing: a
        launcher sends it to processes that lost another one, whose errors are to be read.
        """
        before, self._at_once = self._at_once, False
        try:
            yield
        except BaseException:
            self._failing = True
            raise
        finally:
            self._at_once = before

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, the first signal interrupts, also one that came just before: the state is saved
        already.
        """
        if self.requested:
            raise KeyboardInterrupt
        before, self._at_once = self._at_once, True
        try:
            yield
        finally:
            self._at_once = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._failing and number == signal.SIGTERM:
            return
        now, again = time.monotonic(), self.requested
        if not again:
            self.requested, self._first = True, now
        if self._at_once or (again and number == signal.SIGINT and now > self._first + ECHO):
            raise KeyboardInterrupt

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
