"""What a run leaves on the disk: modes, curves and logs; and a disk that turns read-only."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

import pytest
import torch.utils.tensorboard  # noqa: F401, before the children are forked
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gdpo_sr.stage2.gdpo_model import GDPOModel
from gdpo_sr.utils import logger as logs
from tests.faults.kills import UPDATES, Operations, check_end
from tests.faults.runs import forked, told, train

UMASK = 0o027


def test_modes_follow_the_umask(base: Path, tmp_path: Path):
    """Every file and folder of a run, its log and its curves too."""

    def child() -> int:
        os.umask(UMASK)
        return train("stage1", base, tmp_path, logger__use_tb_logger="true", **UPDATES)

    assert forked(child) == 0
    for path in [tmp_path / "run", *(tmp_path / "run").rglob("*")]:
        wanted = (0o777 if path.is_dir() else 0o666) & ~UMASK
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_curves_go_on_after_a_resume(base: Path, tmp_path: Path):
    """Killed after update 3 of 5, whose state is not there: 3 is made and shown again."""
    changes = {"train__total_iter": 5, "logger__save_checkpoint_freq": 2}
    changes |= {"logger__use_tb_logger": "true"}

    def child() -> int:
        def stop(model: GDPOModel) -> None:
            if model.iteration == 3:
                model.log.close()
                os._exit(9)

        GDPOModel.after_update = stop
        return train("stage2", base, tmp_path, **changes)

    assert forked(child) == 9
    assert forked(lambda: train("stage2", base, tmp_path, "--auto_resume", **changes)) == 0
    events = EventAccumulator(str(tmp_path / "run" / "log" / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3, 4, 5]


def test_logs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logs, "LOG_BYTES", 2000)
    before = logging.getLogger(logs.NAME).handlers[:]
    logger = logs.get_logger(tmp_path / "train.log")
    try:
        for number in range(300):
            logger.info("line %d of a run that goes on for weeks", number)
    finally:
        for handler in set(logger.handlers) - set(before):
            logger.removeHandler(handler)
            handler.close()
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 3 * 2000
    assert "line 299" in (tmp_path / "train.log").read_text()


class ReadOnly(Operations):
    """From operation number `last` on, nothing below `root` can be written."""

    def __call__(self, event: str, values: tuple) -> None:
        if self._counts(event, values):
            self.count += 1
            if self.count >= self.last:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize("after", [1, 40])
def test_a_disk_that_is_read_only(after: int, base: Path, tmp_path: Path, whole: dict[str, str]):
    """From the start, and from some moment on: one line, and the run can go on elsewhere."""
    root = tmp_path / "live"
    root.mkdir()

    def child() -> int:
        ReadOnly(root, None, after)
        return train("stage2", base, root, **UPDATES)

    status, [line] = told(child, tmp_path / "errors")
    assert status == 2 and "Read-only file system" in line
    check_end("stage2", base, root, whole, **UPDATES)
