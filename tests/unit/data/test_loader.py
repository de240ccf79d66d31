"""A loader's worker: what it does not hear, and how its end is told."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
from torch.utils.data import Dataset

from gdpo_sr.data.loader import _hear_out, is_lost_worker, make_loader
from gdpo_sr.types import ProcessError


class Witness(Dataset):
    """Items that say what their process is and whether it hears Ctrl-C."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, draw: int) -> dict[str, int]:
        blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return {"process": os.getpid(), "blocked": int(blocked)}


def test_a_worker_does_not_hear_ctrl_c_and_its_death_is_known():
    """A terminal sends SIGINT to all; a worker that ended by it would take the update with it."""
    batches = iter(make_loader(Witness(), 1, num_workers=1))
    item = next(batches)
    assert int(item["process"]) != os.getpid() and int(item["blocked"])
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    os.kill(int(item["process"]), signal.SIGINT)
    assert int(next(batches)["process"]) == int(item["process"])
    os.kill(int(item["process"]), signal.SIGKILL)
    with pytest.raises((ProcessError, RuntimeError)) as told:  # torch notices at any moment
        while True:
            next(batches)
    assert isinstance(told.value, ProcessError) or is_lost_worker(told.value)


def test_torchs_signal_does_not_come_after_the_loss_is_told():
    """Found in CI: the connection had ended first, and the signal hit whatever ran next."""

    def handler(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    ended, other = os.pipe()
    os.close(other)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        _hear_out(SimpleNamespace(_workers=[SimpleNamespace(sentinel=ended)]))
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.close(ended)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), True),
        (EOFError(), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nshapes"), False),
        (FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0."), False),
        (PermissionError(13, "Permission denied"), False),
    ],
)
def test_a_lost_worker_is_told_from_an_error_of_one(error: Exception, lost: bool):
    assert is_lost_worker(error) == lost
