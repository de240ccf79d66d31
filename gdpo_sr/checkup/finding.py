"""What `gdpo-sr doctor` says of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the screen.

    Attributes:
        name: what was looked at.
        status: ok; note: worth reading, the run starts all the same; bad: it cannot start.
        text: what was found, and of what is bad the remedy.
    """

    name: str
    status: Literal["ok", "note", "bad"]
    text: str

    def line(self) -> str:
        """For the screen."""
        return f"{self.status:<5}{self.name:<18}{self.text}"


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.0f} MiB"
