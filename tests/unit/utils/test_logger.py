"""The logger writes every line once; TensorBoard files can be read back."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from gdpo_sr.utils.logger import ScalarLog, get_logger


@pytest.fixture(autouse=True)
def clean_logger():
    """The logger as it was before the test, so that tests do not see each other's handlers."""
    logger = logging.getLogger("gdpo_sr")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    for handler in logger.handlers:
        if handler not in before[0]:
            handler.close()
    logger.handlers[:], logger.level, logger.propagate = before


def test_every_line_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for _ in range(3):
        get_logger(tmp_path / "log" / "a.log")
    get_logger().info("one line")
    assert capsys.readouterr().err.count("one line") == 1
    assert (tmp_path / "log" / "a.log").read_text().count("one line") == 1


def test_new_file_replaces_the_old(tmp_path: Path):
    get_logger(tmp_path / "a.log").info("first")
    get_logger(tmp_path / "b.log").info("second")
    assert "second" not in (tmp_path / "a.log").read_text()
    assert "first" not in (tmp_path / "b.log").read_text()


def test_other_processes_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    get_logger(tmp_path / "a.log", main_process=False).info("a line")
    assert "a line" not in capsys.readouterr().err and not (tmp_path / "a.log").exists()


def test_scalar_log(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = ScalarLog(tmp_path)
    log.add_scalars({"train/loss": 0.5, "train/psnr": torch.tensor(20.0)}, step=3)
    log.add_image("val/a", torch.rand(3, 8, 8), step=3)
    log.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(3, 0.5)]
    assert events.Images("val/a")[0].width == 8
