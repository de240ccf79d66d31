"""The endless, resumable stream of batches."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from gdpo_sr.types import GDPOSRError, ProcessError


class DrawSampler(Sampler[int]):
    """Draw numbers of one process, without end.

    Step s of rank r of w gets the draws start + s*B*w + r*B up to B further: together the ranks of
    a step draw what one process with the global batch B*w would.

    Args:
        start: first draw number of all processes together; to resume, the number of pictures drawn
            so far.
        rank, world: this process and how many there are.
        batch_size: B, pictures per process and step.
    """

    def __init__(self, start: int, rank: int, world: int, batch_size: int) -> None:
        if start < 0 or batch_size < 1 or not 0 <= rank < world:
            raise ValueError(f"no draws for {start=}, {rank=}, {world=}, {batch_size=}")
        self.start = start
        self.rank = rank
        self.world = world
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        block = self.start + self.rank * self.batch_size
        while True:
            yield from range(block, block + self.batch_size)
            block += self.world * self.batch_size


class _Loader(DataLoader[dict[str, Any]]):
    """A worker's error arrives as the one line that it is, without the worker's trace; and Ctrl-C,
    which a terminal sends to workers too, is the run's alone.
    """

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        batches = None
        try:
            with _interrupts_wait() if self.num_workers else nullcontext():
                batches = super().__iter__()
            yield from batches
        except GDPOSRError as error:
            last = str(error).strip().splitlines()[-1]
            name = f"{type(error).__module__}.{type(error).__name__}: "
            raise type(error)(last.removeprefix(name)) from error
        except (EOFError, OSError, RuntimeError) as error:
            if not is_lost_worker(error):
                raise
            _hear_out(batches)
            raise ProcessError(LOST_WORKER) from error


def _hear_out(batches: object) -> None:
    """Wait until torch's handler of SIGCHLD has spoken of a worker that has ended: it speaks at any
    moment, and else in the midst of whoever tells of the loss.
    """
    ends = [worker.sentinel for worker in getattr(batches, "_workers", ())]
    with suppress(RuntimeError):
        wait(ends, 1.0)
        time.sleep(0.1)


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Inside, SIGINT is held back, and for good in processes that are started there."""
    resource_tracker.ensure_running()  # at its start it would let SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


LOST_WORKER = (
    "a process that reads photos was killed, often for want of memory: lower "
    "datasets.train.num_workers, then go on with --auto_resume"
)


def is_lost_worker(error: Exception) -> bool:
    """Whether a loader's worker has ended: torch says so, by a signal's handler at whatever moment,
    or the connection to it has ended. Errors that were raised in a worker begin with "Caught".
    """
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker (pid")
    lost = isinstance(error, EOFError | ConnectionError | FileNotFoundError)
    return lost and not str(error).startswith("Caught")


def make_loader(
    dataset: Dataset[dict[str, Any]],
    batch_size: int,
    num_workers: int = 0,
    start_draw: int = 0,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[dict[str, Any]]:
    """Batches of `dataset` by draw number: pictures (B, 3, H, W), B names, draws (B,) int64.

    The stream depends on the dataset's seed and the draw numbers, not on `num_workers`. Workers are
    spawned (safe beside CUDA and threads; PyTorch gives each one thread), so a script that asks for
    them needs a `__main__` guard.
    """
    return _Loader(
        dataset,
        batch_size=batch_size,
        sampler=DrawSampler(start_draw, rank, world, batch_size),
        num_workers=num_workers,
        multiprocessing_context="spawn" if num_workers else None,
        worker_init_fn=partial(end_without, os.getpid()),
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # else every iterator would draw from the global one
    )


def end_without(parent: int, worker: int) -> None:
    """End a worker whose run was killed while it started: torch looks for its parent from later
    on, and would take the process that adopted it for that one.
    """
    if os.getppid() != parent:
        os._exit(1)
