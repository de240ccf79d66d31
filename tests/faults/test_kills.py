"""Kill a run before every file operation, go on, and end with what an undisturbed run ends with.

Children are forked from this process, which has imported everything, so a run takes a second. The
long form tries every operation: python -m pytest tests/faults/test_kills.py -m slow -s
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.faults.runs import FILES, forked, outcome, train

MOVES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
UPDATES = {"train__total_iter": 2, "val__val_freq": 1, "logger__keep_checkpoints": 1}
VARIANTS = {
    "plain": {},
    "workers": {"datasets__train__num_workers": 1},
    "average": {"train__ema_decay": 0.5, "train__accumulation": 2},
}


class Operations:
    """Counts what a process does to files below `root`, and kills it before number `last`."""

    def __init__(self, root: Path, last: int | None) -> None:
        self.root, self.last, self.count = str(root), last, 0
        sys.addaudithook(self)

    def __call__(self, event: str, values: tuple) -> None:
        writes = event == "open" and isinstance(values[2], int) and values[2] & WRITES
        if writes or event in MOVES:
            counts = self.root in str(values[0])
        else:
            counts = event == "ctypes.dlopen" and values[0] is None  # an exchange of names
        if counts:
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)


def killed_at(stage: str, base: Path, root: Path, last: int | None, **changes: object) -> int:
    """Exit status of a run that is killed before its operation `last`; their number is in a file
    beside the run if it is not.
    """

    def child() -> int:
        operations = Operations(root, last)
        status = train(stage, base, root, **changes)
        count, operations.root = operations.count, "nowhere"
        (root / "count").write_text(str(count))
        return status

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
    assert outcome(root / "run") == whole
    assert not [f for f in root.rglob(".*") if f.name.endswith((".tmp", ".old", ".lock"))]


def kill_everywhere(
    stage: str, base: Path, root: Path, step: int, **changes: object
) -> tuple[int, int]:
    """Kill before every `step`-th operation. Returns how many there are, and were tried."""
    (root / "whole").mkdir()
    assert killed_at(stage, base, root / "whole", None, **changes) == 0
    count = int((root / "whole" / "count").read_text())
    whole = outcome(root / "whole" / "run")
    points = range(count, 0, -step)
    for last in points:
        (place := root / str(last)).mkdir()
        assert killed_at(stage, base, place, last, **changes) == -9, last
        check_end(stage, base, place, whole, **changes)
    return count, len(points)


@pytest.mark.parametrize(("stage", "tried"), [("stage2", 3), ("stage1", 2)])
def test_a_few_operations(stage: str, tried: int, base: Path, tmp_path: Path):
    count, _ = kill_everywhere(stage, base, tmp_path, 1000, **UPDATES)
    assert count > 40
    draw = random.Random(count)
    whole = outcome(tmp_path / "whole" / "run")
    for last in draw.sample(range(count // 3, count), tried - 1):
        (place := tmp_path / str(last)).mkdir()
        assert killed_at(stage, base, place, last, **UPDATES) == -9
        check_end(stage, base, place, whole, **UPDATES)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", FILES)
def test_every_operation(stage: str, variant: str, base: Path, tmp_path: Path):
    changes = {**UPDATES, **VARIANTS[variant]}
    step = 1 if variant == "plain" else 7
    print(stage, variant, *kill_everywhere(stage, base, tmp_path, step, **changes))


def signalled(stage: str, base: Path, root: Path, number: int, after: float, **changes: object):
    """Exit status of a run that gets a signal after so many seconds."""

    def child() -> int:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Timer(after, lambda: os.kill(os.getpid(), number)).start()
        return train(stage, base, root, **changes)

    return forked(child)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_random_moments(number: int, variant: str, base: Path, tmp_path: Path):
    changes = {**UPDATES, "train__total_iter": 4, **VARIANTS[variant]}
    start = time.monotonic()
    assert forked(lambda: train("stage2", base, tmp_path, **changes)) == 0
    seconds = time.monotonic() - start
    whole = outcome(tmp_path / "run")
    draw = random.Random(number)
    for index in range(8):
        (place := tmp_path / f"{index}").mkdir()
        after = draw.uniform(0, seconds)
        status = signalled("stage2", base, place, number, after, **changes)
        assert status in (0, 130, 1, -number), (status, after)
        check_end("stage2", base, place, whole, **changes)


def test_a_stop_signal_saves_and_does_not_validate(base: Path, tmp_path: Path):
    """Stopped in update 1 of 2, where a validation is due: that is done by the resumed run."""
    from gdpo_sr.stage2.gdpo_model import GDPOModel

    assert forked(lambda: train("stage2", base, tmp_path / "whole", **UPDATES)) == 0

    def child() -> int:
        update = GDPOModel._update

        def stop(model: GDPOModel, batches: object) -> dict[str, float]:
            os.kill(os.getpid(), signal.SIGTERM)
            return update(model, batches)

        GDPOModel._update = stop
        return train("stage2", base, tmp_path, **UPDATES)

    assert forked(child) == 130
    run = tmp_path / "run"
    assert (run / "training_states" / "0000001").is_dir()
    assert not (run / "validation_0000001.json").exists()
    check_end("stage2", base, tmp_path, outcome(tmp_path / "whole" / "run"), **UPDATES)
