"""What was tried and what went wrong, by kind of fault."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gdpo_sr.types import GDPOSRError

LONGEST = 2000
"""Characters of a message."""


@dataclass
class Tally:
    """Cases of one kind.

    Attributes:
        kind: of fault.
        limit: seconds of processor time that a case may take.
        tried, refused: cases, and those of them that ended in an error of ours.
        wrong: a sentence for every case that went wrong.
        note: what else is to be told.
    """

    kind: str
    limit: float = 10.0
    tried: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    note: str = ""

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Inside, all ends well or in one of our errors, whose message is a printable line, or
        several of options.
        """
        self.tried += 1
        before = sum(os.times()[:4])
        with _alarm(int(self.limit * 30)):
            try:
                yield
            except GDPOSRError as error:
                self.refused += 1
                lines = str(error).split("\n")
                if not all(len(line) < LONGEST and line.isprintable() for line in lines):
                    self.wrong.append(f"{name}: no short line: {str(error)!a:.300}")
            except Exception as error:
                self.wrong.append(f"{name}: {_told(error)}")
        seconds = sum(os.times()[:4]) - before
        if seconds > self.limit:
            self.wrong.append(f"{name}: takes {seconds:.1f} s")

    def row(self) -> str:
        """Of the table of `tests.faults.count`."""
        return f"| {self.kind} | {self.tried} | {self.refused} | {len(self.wrong)} |"


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    """A TimeoutError after so many seconds."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"hangs for {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _told(error: Exception) -> str:
    """An error, and the functions of ours that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f.name for f in frames if "/gdpo_sr/" in f.filename][-3:]
    return f"{type(error).__name__}: {error!s:.300} ({' > '.join(ours)})"
