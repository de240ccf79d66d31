"""Stop a run between two iterations, after its state is saved, when Ctrl-C or SIGTERM asks for
it.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class StopSignal:
    """Inside the `with` block the first SIGINT or SIGTERM sets `requested`; a second SIGINT
    interrupts at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread: nobody can press Ctrl-C here
                break
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
