"""Run folders: made, archived, never overwritten; a resumed run tells what changed."""

from __future__ import annotations

import logging
import re

import pytest

from gdpo_sr.config.paths import ExperimentPaths
from gdpo_sr.types import OptionError

OLD = "name: a\ntrain: {total_iter: 5, optim_g: {lr: 1e-4}}\nlogger: {print_freq: 1}\n"


def test_folders_and_options_file(tmp_path):
    paths = ExperimentPaths(tmp_path / "experiments", "a")
    assert paths.prepare(OLD, resume=False) is None
    made = {path.name for path in paths.folder.iterdir()}
    assert made == {"models", "training_states", "visualization", "log", "options.yml"}
    assert paths.options_file.read_text() == OLD


def test_existing_runs_are_archived_even_within_one_second(tmp_path):
    paths = ExperimentPaths(tmp_path, "a")
    archives = []
    for run in range(4):
        archives.append(paths.prepare(f"name: a\nmanual_seed: {run}\n", resume=False))
        (paths.models / "lora.txt").write_text(str(run))
    assert archives[0] is None and len(set(archives)) == 4
    for run, archive in enumerate(archives[1:]):
        assert re.fullmatch(r"a_archived_\d{8}_\d{6}(_\d)?", archive.name)
        assert (archive / "models" / "lora.txt").read_text() == str(run)
        assert (archive / "options.yml").read_text().endswith(f": {run}\n")
    assert (paths.models / "lora.txt").read_text() == "3"


def test_resume_keeps_the_run(tmp_path, caplog):
    paths = ExperimentPaths(tmp_path, "a")
    paths.prepare(OLD, resume=False)
    (paths.training_states / "state").write_text("kept")
    longer = OLD.replace("total_iter: 5", "total_iter: 9").replace("print_freq: 1", "print_freq: 2")
    with caplog.at_level(logging.WARNING):
        assert paths.prepare(longer, resume=True) is None
    assert not caplog.records
    assert (paths.training_states / "state").read_text() == "kept"
    assert paths.options_file.read_text() == longer


def test_resume_without_a_run_starts_one(tmp_path):
    paths = ExperimentPaths(tmp_path, "a")
    assert paths.prepare(OLD, resume=True) is None
    assert paths.options_file.exists()


def test_unwritable_root_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError) as caught:
        ExperimentPaths(tmp_path / "file", "a").prepare(OLD, resume=False)
    assert "choose another path.experiments_root" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(tmp_path, resume):
    """`path.experiments_root: . name: datasets` renamed the folder of photos."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(OptionError, match="photos exists and is no run; choose another name"):
        ExperimentPaths(tmp_path, "photos").prepare(OLD, resume=resume)
    assert [path.name for path in tmp_path.rglob("*")] == ["photos", "a.jpg"]
