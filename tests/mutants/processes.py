"""A function in a fork of this process: what is slow to import is there already."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TypeVar

SECONDS, GIB = 120, 10
"""Of processor time and memory, at most; of a clock's time, which others shorten, 20 times more."""
T = TypeVar("T")


def in_fork(function: Callable[[], T]) -> T | None:
    """What a function returns in a fork, mute; None where it raises, hangs, or dies."""
    with forked(lambda results: results.send(function()), SECONDS) as results:
        try:
            return results.recv()
        except EOFError:
            return None


class forked:  # noqa: N801
    """Context: a function that runs in a fork and may send results; it ends with the context."""

    def __init__(self, function: Callable[[Connection], None], seconds: int = 0) -> None:
        self.results, sender = Pipe(duplex=False)
        self.child = os.fork()
        if self.child == 0:
            self.results.close()
            signal.alarm(20 * seconds)
            if seconds:
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            resource.setrlimit(resource.RLIMIT_DATA, (GIB * 2**30, GIB * 2**30))
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            try:
                function(sender)
            finally:
                os._exit(0)
        sender.close()

    def __enter__(self) -> Connection:
        return self.results

    def __exit__(self, *exception: object) -> None:
        self.results.close()
        os.waitpid(self.child, 0)
