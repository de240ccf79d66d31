"""The writer: whole or not at all wherever a process is killed; modes and leftovers."""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path

import pytest

from gdpo_sr import writer
from gdpo_sr.types import CheckpointError, OptionError
from gdpo_sr.writer import (
    exchange,
    new_folder,
    output_folder,
    recover,
    write_file,
    write_result,
)

OLD, NEW = {"a": "old a", "b/c": "old c"}, {"a": "new a", "b/d": "new d"}
STEPS = ("open", "os.mkdir", "os.rename", "os.chmod", "os.remove", "os.rmdir", "shutil.rmtree")
"""Events that Python tells before it touches the file system."""


def write(folder: Path, content: dict[str, str]) -> None:
    with new_folder(folder) as temporary:
        for name, text in content.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def killed_at(step: int, folder: Path) -> bool:
    """Write NEW in a child that dies before its step of that number; False if it has fewer."""
    child = os.fork()
    if child == 0:
        steps = count()

        def die(event: str, arguments: tuple) -> None:
            if event in STEPS and next(steps) == step:
                os._exit(9)

        sys.addaudithook(die)
        write(folder, NEW)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_whole(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(writer, "exchange", lambda first, second: False)
    folder, seen = tmp_path / "model", set()
    for step in count():
        write(folder, OLD)
        if not killed_at(step, folder):
            break
        if not can_exchange:
            recover(folder)
        found = content(folder)
        assert found in (OLD, NEW), f"step {step}"
        seen.add(found == NEW)
        recover(folder)
        assert [path.name for path in tmp_path.iterdir()] == ["model"], f"step {step}"
    assert step > 15
    assert seen == {True, False}


def test_two_folders_change_places_in_one_step(tmp_path):
    for name in "xy":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not exchange(tmp_path / "x", tmp_path / "y"):
        pytest.skip("this file system or system cannot exchange names")
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["y"]


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_modes_follow_the_umask(tmp_path, umask, expected):
    before = os.umask(umask)
    try:
        with new_folder(tmp_path / "model") as temporary:
            (temporary / "weights").touch(mode=0o600)
        write_file(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    for file in (tmp_path / "model" / "weights", tmp_path / "file"):
        assert file.stat().st_mode & 0o777 == expected


def test_an_error_leaves_what_was_there(tmp_path):
    write(tmp_path / "model", OLD)
    with pytest.raises(RuntimeError), new_folder(tmp_path / "model") as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert content(tmp_path) == {f"model/{name}": text for name, text in OLD.items()}


def test_a_file_is_replaced_and_its_folder_made(tmp_path):
    for text in ("old", "new \u00e4"):
        write_file(tmp_path / "sub" / "table.md", text)
    assert content(tmp_path) == {"sub/table.md": "new \u00e4"}


def test_the_longest_names_can_be_written(tmp_path):
    write_file(tmp_path / ("n" * 255), "x")
    write(tmp_path / ("m" * 255), OLD)


def test_a_link_goes_on_pointing_to_what_is_new(tmp_path):
    write(tmp_path / "disk" / "model", OLD)
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    write(tmp_path / "model", NEW)
    assert (tmp_path / "model").is_symlink()
    assert content(tmp_path / "disk" / "model") == NEW


def test_leftovers_of_a_running_process_stay(tmp_path):
    (running := tmp_path / f".{writer._key(tmp_path / 'model')}.{os.getppid()}.tmp").mkdir()
    write(tmp_path / "model", OLD)
    assert running.exists()


def test_what_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "model", tmp_path / "file" / "table.md"):
        with pytest.raises(CheckpointError, match="cannot be written.*name another place") as told:
            write_file(place, "x") if place.suffix else write(place, OLD)
        assert "\n" not in str(told.value)


# Results: many files that can be made again


def test_names_as_long_as_the_file_system_allows(tmp_path: Path):
    path = tmp_path / ("x" * 251 + ".txt")
    write_result(path, b"content")
    assert path.read_bytes() == b"content" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError):
        write_result(tmp_path / ("x" * 256), b"content")
    assert len(list(tmp_path.iterdir())) == 1  # nothing temporary is left


def test_a_result_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_result(tmp_path / "a", b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_result(tmp_path / "a", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_link_is_replaced_by_a_result(tmp_path: Path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "a").symlink_to(tmp_path / "mine")
    write_result(tmp_path / "a", b"new")
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "a").read_text() == "new"


def test_output_folder(tmp_path: Path):
    assert output_folder(str(tmp_path / "new" / "er")) == tmp_path / "new" / "er"
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for text, words in (("", "-o ''"), ("file/x", "is a file"), ("broken", "is a file")):
        with pytest.raises(OptionError, match=words):
            output_folder(text and str(tmp_path / text))


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "a").symlink_to(tmp_path / "mine")
    write_file(tmp_path / "a", "new")
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "a").read_text() == "new"
