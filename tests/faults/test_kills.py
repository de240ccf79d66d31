"""Kill a run before its file operations and at random moments, go on, and end with what an
undisturbed run ends with. The long form: python -m pytest tests/faults/test_kills.py -m slow
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gdpo_sr.data.loader import end_without
from gdpo_sr.stage2.gdpo_model import GDPOModel
from gdpo_sr.trainer import run_lock
from gdpo_sr.types import ProcessError
from tests.faults.kills import (
    SIGNALS,
    UPDATES,
    VARIANTS,
    check_end,
    killed,
    random_moments,
    resume_copies,
    two_processes,
)
from tests.faults.runs import FILES, forked, log_of, told, train


@pytest.mark.parametrize("stage", FILES)
def test_a_few_operations(stage: str, base: Path, tmp_path: Path):
    """Before an operation in sixteen of those that change something."""
    found = resume_copies(stage, base, tmp_path, 1 / 16, **UPDATES)
    assert not found.wrong and found.tried > 1


def test_a_copy_is_what_a_kill_leaves(base: Path, tmp_path: Path, whole: dict[str, str]):
    """A process that kills itself in the middle, for once."""
    assert killed("stage2", base, tmp_path, 40, **UPDATES) == -signal.SIGKILL
    check_end("stage2", base, tmp_path, whole, **UPDATES)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", FILES)
def test_every_operation(stage: str, variant: str, base: Path, tmp_path: Path):
    changes = {**UPDATES, **VARIANTS[variant]}
    share = 1 if variant == "plain" else 1 / 8
    assert not resume_copies(stage, base, tmp_path, share, **changes).wrong


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", FILES)
@pytest.mark.parametrize("number", SIGNALS)
def test_random_moments(number: int, stage: str, variant: str, base: Path, tmp_path: Path):
    assert not random_moments(stage, base, tmp_path, number, 8, **VARIANTS[variant]).wrong


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_two_processes(number: int, base: Path, tmp_path: Path):
    assert not two_processes(base, tmp_path, number, 4).wrong


@pytest.mark.parametrize(("parent", "status"), [(os.getpid(), 0), (1, 1)])
def test_a_loader_worker_does_not_outlive_its_run(parent: int, status: int):
    """Found: killed while its worker started, a run left it behind for ever."""
    assert forked(lambda: end_without(parent, 0) or 0) == status


def test_a_stop_signal_saves_and_does_not_validate(
    base: Path, tmp_path: Path, whole: dict[str, str]
):
    """Stopped in update 1 of 2, where a validation is due: that is done by the resumed run."""

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
    check_end("stage2", base, tmp_path, whole, **UPDATES)


def test_a_stop_signal_in_the_first_validation(base: Path, tmp_path: Path, whole: dict[str, str]):
    """Found: it ended the run without a word, by the signal."""

    def child() -> int:
        validate = GDPOModel.validate

        def stop(model: GDPOModel) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            validate(model)

        GDPOModel.validate = stop
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return train("stage2", base, tmp_path, **UPDATES)

    assert forked(child) == 130
    assert "stopped at 0: no state was saved yet, and --auto_resume" in log_of(tmp_path / "run")
    assert not (tmp_path / ".run.lock").exists()
    check_end("stage2", base, tmp_path, whole, **UPDATES)


def test_an_error_is_told_though_sigterm_follows(base: Path, tmp_path: Path):
    """Found under load: a launcher that has lost one process ended the others before their line."""

    def child() -> int:
        lock = run_lock.run_lock

        @contextmanager
        def slow_to_free(*values: object) -> Iterator[None]:
            try:
                with lock(*values):
                    yield
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        def lost(*_: object) -> None:
            raise ProcessError("process 0 of 2 lost another one")

        run_lock.run_lock, GDPOModel._update = slow_to_free, lost
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return train("stage2", base, tmp_path, **UPDATES)

    status, lines = told(child, tmp_path / "errors")
    assert status == 2 and lines == ["error: process 0 of 2 lost another one"]
