"""Runs killed before their file operations and at random moments, resumed, and compared.

A kill leaves on the disk what was there at that moment. So one run, whose folder is copied before
every operation, gives all kills of that kind; each copy is then resumed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path

from safetensors.torch import load_file

from tests.faults.runs import bytes_of, ended, forked, outcome, started, train
from tests.faults.tally import Tally

MOVES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
UPDATES = {"train__total_iter": 2, "val__val_freq": 1, "logger__keep_checkpoints": 1}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
VARIANTS = {
    "plain": {},
    "workers": {"datasets__train__num_workers": 1},
    "average": {"train__ema_decay": 0.5, "train__accumulation": 2},
}


class Operations:
    """Copies `root` to `copies` before every operation on files below it, equal ones once; or
    kills the process before operation number `last`.
    """

    def __init__(self, root: Path, copies: Path | None, last: int | None = None) -> None:
        self.root, self.copies, self.last = str(root), copies, last
        self.count, self.seen, self.at_work = 0, set(), False
        sys.addaudithook(self)

    def __call__(self, event: str, values: tuple) -> None:
        if not self.at_work and self._counts(event, values):
            self.at_work = True
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.copies is not None:
                self._copy()
            self.at_work = False

    def _counts(self, event: str, values: tuple) -> bool:
        writes = event == "open" and isinstance(values[2], int) and values[2] & WRITES
        if writes or event in MOVES:
            return self.root in str(values[0])
        return event == "ctypes.dlopen" and values[0] is None  # an exchange of names

    def _copy(self) -> None:
        found = bytes_of(Path(self.root))
        if found not in self.seen:
            self.seen.add(found)
            shutil.copytree(self.root, self.copies / f"{self.count:04d}", symlinks=True)


def copies_of_a_run(stage: str, base: Path, root: Path, **changes: object) -> tuple[Path, int]:
    """Run in `root/live` to its end. Returns the folder of its copies, and how many operations
    there were.
    """
    live, copies = root / "live", root / "copies"
    live.mkdir(parents=True)
    copies.mkdir()

    def child() -> int:
        operations = Operations(live, copies)
        status = train(stage, base, live, **changes)
        operations.at_work = True
        (root / "count").write_text(str(operations.count))
        return status

    assert forked(child) == 0
    return copies, int((root / "count").read_text())


def killed(stage: str, base: Path, root: Path, last: int, **changes: object) -> int:
    """Exit status of a run that kills itself before its operation `last`."""

    def child() -> int:
        Operations(root, None, last)
        return train(stage, base, root, **changes)

    return forked(child)


def check_model(run: Path) -> None:
    """Once there is a newest model, it is whole."""
    folder = run / "models" / "lora_latest"
    states = [f for f in run.glob("training_states/*") if f.name.isdigit()]
    if folder.exists() or len(states) > 1:
        assert load_file(folder / "adapter_model.safetensors")
        assert (folder / "adapter_config.json").read_text().endswith("}")


def check_end(stage: str, base: Path, root: Path, whole: dict[str, str], **changes: object) -> None:
    """Go on, and compare with the undisturbed run."""
    check_model(root / "run")
    assert forked(lambda: train(stage, base, root, "--auto_resume", **changes)) == 0
    found = outcome(root / "run")
    assert found == whole, sorted(k for k in found | whole if found.get(k) != whole.get(k))
    assert not [f for f in root.rglob(".*") if f.name.endswith((".tmp", ".old", ".lock"))]


def resume_copies(stage: str, base: Path, root: Path, share: float, **changes: object) -> Tally:
    """Kills before a share of the operations that change something, drawn at random."""
    tally = Tally(f"kills before file operations, {stage}", limit=300)
    copies, count = copies_of_a_run(stage, base, root, **changes)
    whole = outcome(root / "live" / "run")
    places = sorted(copies.iterdir())
    chosen = random.Random(count).sample(places, max(1, round(share * len(places))))
    tally.note = f"{len(places)} different places on the disk before {count} operations"
    for place in sorted(chosen):
        with tally.case(f"{stage} {changes} before operation {place.name}"):
            check_end(stage, base, place, whole, **changes)
        shutil.rmtree(place)
    return tally


def signalled(
    stage: str, base: Path, root: Path, number: int, after: float, **changes: object
) -> int:
    """Exit status of a run that gets a signal after so many seconds."""

    def child() -> int:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Timer(after, lambda: os.kill(os.getpid(), number)).start()
        return train(stage, base, root, **changes)

    return forked(child)


def random_moments(
    stage: str, base: Path, root: Path, number: int, times: int, **changes: object
) -> Tally:
    """A signal at `times` random moments of a run."""
    tally = Tally(f"{signal.Signals(number).name} at random moments", limit=300)
    changes = {**UPDATES, **changes}
    start = time.monotonic()
    assert forked(lambda: train(stage, base, root / "whole", **changes)) == 0
    seconds = time.monotonic() - start
    whole, draw = outcome(root / "whole" / "run"), random.Random(f"{number} {changes}")
    for index in range(times):
        (place := root / str(index)).mkdir()
        after = draw.uniform(0, seconds)
        with tally.case(f"{stage} {changes} after {after:.2f} of {seconds:.2f} s"):
            status = signalled(stage, base, place, number, after, **changes)
            assert status in (0, 130, 1, -number), status
            check_end(stage, base, place, whole, **changes)
    return tally


def in_two(base: Path, root: Path, *flags: str, after: float = 0, number: int = 0) -> list[int]:
    """Exit statuses of the two processes of a run of stage 2; both get a signal after some time."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def child(rank: int) -> int:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        own |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        os.environ |= {key: str(value) for key, value in own.items()}
        if number:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            threading.Timer(after, lambda: os.kill(os.getpid(), number)).start()
        return train("stage2", base, root, *flags, **UPDATES)

    return ended(*(started(partial(child, rank)) for rank in (0, 1)))


def two_processes(base: Path, root: Path, number: int, times: int) -> Tally:
    """Both of two processes get a signal at random moments; two go on."""
    tally = Tally(f"{signal.Signals(number).name}, two processes", limit=300)
    start = time.monotonic()
    assert in_two(base, root / "whole") == [0, 0]
    seconds = time.monotonic() - start
    whole, draw = outcome(root / "whole" / "run"), random.Random(number)
    for index in range(times):
        (place := root / str(index)).mkdir()
        after = draw.uniform(0, seconds)
        with tally.case(f"after {after:.2f} of {seconds:.2f} s"):
            statuses = in_two(base, place, after=after, number=number)
            assert all(s in (0, 1, 2, 130, -number) for s in statuses), statuses
            check_model(place / "run")
            assert in_two(base, place, "--auto_resume") == [0, 0]
            assert outcome(place / "run") == whole
    return tally
