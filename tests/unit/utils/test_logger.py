"""The logger writes every line once; TensorBoard files can be read back."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch

from gdpo_sr.types import OptionError
from gdpo_sr.utils import wandb_log
from gdpo_sr.utils.logger import ScalarLog, get_logger, tensorboard_writer


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


def test_a_name_with_half_a_character(tmp_path: Path):
    log = ScalarLog(tensorboard_writer(tmp_path))
    log.add_scalars({"val/\ud800": 0.5}, step=3)
    log.close()
    [file] = tmp_path.iterdir()
    assert b"val/?" in file.read_bytes()


def test_curves_whose_folder_is_deleted_end_with_a_line(tmp_path: Path, capsys):
    """Found: TensorBoard's thread printed its trace."""
    get_logger()
    log = ScalarLog(tensorboard_writer(tmp_path / "curves"))
    shutil.rmtree(tmp_path / "curves")
    log.add_scalars({"train/loss": 0.5}, step=3)
    log.close()
    log.add_scalars({"train/loss": 0.5}, step=4)
    told = capsys.readouterr().err
    assert told.count("no more curves by SummaryWriter") == 1 and "Traceback" not in told


def test_scalar_log(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = ScalarLog(tensorboard_writer(tmp_path))
    log.add_scalars({"train/loss": 0.5, "train/psnr": torch.tensor(20.0)}, step=3)
    log.add_image("val/a", torch.rand(3, 8, 8), step=3)
    log.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(3, 0.5)]
    assert events.Images("val/a")[0].width == 8


class Recorder:
    """A writer that remembers, or that cannot write."""

    def __init__(self, full: bool = False) -> None:
        self.full, self.seen = full, []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        if self.full:
            raise OSError("no space left")
        self.seen.append((tag, value, step))

    def close(self) -> None:
        self.seen.append("closed")


def test_a_writer_that_cannot_write_leaves_the_others_alone(caplog):
    full, fine = Recorder(full=True), Recorder()
    log = ScalarLog(full, fine)
    logging.getLogger("gdpo_sr").propagate = True
    for step in (1, 2):
        log.add_scalars({"loss": 0.5}, step)
    log.close()
    assert fine.seen == [("loss", 0.5, 1), ("loss", 0.5, 2), "closed"] and full.seen == []
    told = {id(r): r.getMessage() for r in caplog.records}  # two handlers may give one record twice
    assert list(told.values()) == ["no more curves by Recorder: no space left"]


def test_wandb_that_is_not_installed_is_told_before_a_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(OptionError, match=r"use_wandb.*pip install 'gdpo-sr\[wandb\]'"):
        wandb_log.check_wandb()


def test_wandb_offline(tmp_path: Path, monkeypatch):
    """Nothing is sent; the run is on the disk, and a second start goes on under the same id."""
    pytest.importorskip("wandb", reason="needs pip install 'gdpo-sr[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    ids = []
    for step in (1, 2):
        writer = wandb_log.WandbWriter(tmp_path / "log", "my_run", {"scale": 4})
        ids.append((writer._run.id, writer._run.project, writer._run.name))
        log = ScalarLog(writer)
        log.add_scalars({"train/loss": 0.5}, step)
        log.add_image("val/a", torch.rand(3, 8, 8), step)
        log.close()
    assert ids[0] == ids[1] and ids[0][1:] == ("gdpo_sr", "my_run")
    files = list((tmp_path / "log" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and all(file.stat().st_size for file in files)


def test_a_link_in_the_place_of_the_log_is_not_followed(tmp_path: Path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "a.log").symlink_to(tmp_path / "mine")
    get_logger(tmp_path / "a.log").info("one line")
    assert (tmp_path / "mine").read_text() == "mine"
    assert "one line" in (tmp_path / "a.log").read_text()
