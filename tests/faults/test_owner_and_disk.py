"""One owner of a run; a disk that is full, read-only or gone."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import time
from pathlib import Path

import pytest

from gdpo_sr.stage2.gdpo_model import GDPOModel
from gdpo_sr.trainer import run_lock as run_lock_module
from gdpo_sr.trainer.run_lock import run_lock
from gdpo_sr.types import CheckpointError, OptionError
from tests.faults.runs import forked, outcome, told, train
from tests.integration.test_training import build

LOGGER = logging.getLogger("test")


def test_a_run_by_two_names_has_one_owner(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with run_lock(tmp_path / "run", LOGGER), pytest.raises(OptionError, match="in the hands of"):
        with run_lock(tmp_path / "link", LOGGER):
            pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".run.lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OptionError, match="symbolic link"), run_lock(tmp_path / "run", LOGGER):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_lock_that_its_owner_removed_meanwhile_is_made_again(tmp_path: Path, monkeypatch):
    """Opened before the owner removed it and taken afterwards, it would be nobody's."""
    opened, file = run_lock_module._open, tmp_path / ".run.lock"

    def slow(place: Path):
        stream = opened(place)
        if not removed:
            removed.append(place.unlink())
        return stream

    removed: list[None] = []
    monkeypatch.setattr(run_lock_module, "_open", slow)
    with run_lock(tmp_path / "run", LOGGER):
        assert file.exists()
        with (
            pytest.raises(OptionError, match="in the hands of"),
            run_lock(tmp_path / "run", LOGGER),
        ):
            pass
    assert not file.exists() and removed


@pytest.mark.parametrize("flags", [(), ("--auto_resume",)])
def test_a_second_start_is_refused(base: Path, tmp_path: Path, flags: tuple[str, ...], capsys):
    with run_lock(tmp_path / "run", LOGGER):
        (tmp_path / "run").mkdir()
        assert train("stage2", base, tmp_path, *flags) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"process {os.getpid()} on {os.uname().nodename}" in line
    assert list(tmp_path.iterdir()) == [tmp_path / "run"] and not list((tmp_path / "run").iterdir())


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, caplog):
    def hold_and_die() -> int:
        with run_lock(tmp_path / "run", LOGGER):
            os.kill(os.getpid(), 9)
        return 0

    assert forked(hold_and_die) == -9
    with caplog.at_level(logging.WARNING), run_lock(tmp_path / "run", LOGGER):
        assert json.loads((tmp_path / ".run.lock").read_text())["pid"] == os.getpid()
    assert "which is gone, is taken over" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_ends_with_an_error_leaves_no_lock(tmp_path: Path, caplog):
    with pytest.raises(OptionError), run_lock(tmp_path / "run", LOGGER):
        raise OptionError("no such folder")
    assert list(tmp_path.iterdir()) == []
    with caplog.at_level(logging.WARNING), run_lock(tmp_path / "run", LOGGER):
        assert caplog.text == ""


def test_a_live_lock_is_held_against_other_processes(tmp_path: Path):
    def attempt() -> int:
        try:
            with run_lock(tmp_path / "run", LOGGER):
                return 0
        except OptionError:
            return 7

    with run_lock(tmp_path / "run", LOGGER):
        time.sleep(0.01)
        assert forked(attempt) == 7
    assert forked(attempt) == 0


def test_free_space_is_checked_before_anything_is_written(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert train("stage2", base, tmp_path) == 2
    assert "0 MiB are free, and two checkpoints take" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_full_disk_ends_the_run_with_a_line_and_leaves_it_resumable(
    base: Path, finished: Path, tmp_path: Path
):
    """A limit on the size of files stands for the disk; the second state is larger than it."""
    assert train("stage2", base, tmp_path, train__total_iter=1) == 0
    size = (tmp_path / "run" / "training_states" / "0000001" / "state.pt").stat().st_size

    def with_little_room() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))
        return train("stage2", base, tmp_path, "--auto_resume")

    status, [line] = told(with_little_room, tmp_path / "errors")
    assert status == 2 and "(No space left on device; " in line and "MiB are free there" in line
    assert [f.name for f in (tmp_path / "run" / "training_states").iterdir()] == ["0000001"]
    assert train("stage2", base, tmp_path, "--auto_resume") == 0
    whole, found = outcome(finished), outcome(tmp_path / "run")
    assert {name: found.get(name) for name in whole} == whole


def test_a_deleted_folder_is_a_line(base: Path, tmp_path: Path):
    model: GDPOModel = build(base, tmp_path)
    shutil.rmtree(model.paths.folder)
    with pytest.raises(CheckpointError, match="is gone"):
        model.save_checkpoint()
    assert not model.paths.folder.exists()
