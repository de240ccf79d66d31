"""Files appear whole; temporary names are short; links are replaced, not followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gdpo_sr.types import OptionError
from gdpo_sr.utils.files import output_folder, printable, write_whole


def test_names_as_long_as_the_file_system_allows(tmp_path: Path):
    path = tmp_path / ("x" * 251 + ".txt")
    write_whole(path, b"content")
    assert path.read_bytes() == b"content" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError):
        write_whole(tmp_path / ("x" * 256), b"content")
    assert len(list(tmp_path.iterdir())) == 1  # nothing temporary is left


def test_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_whole(tmp_path / "a", b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_link_is_replaced(tmp_path: Path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "a").symlink_to(tmp_path / "mine")
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "a").read_text() == "new"


def test_printable():
    text = printable(f"ü\x1b[2J {os.fsdecode(bytes([0xE9]))}\nnext")
    assert text == "ü\\x1b[2J \\udce9\nnext"
    text.encode("utf-8")


def test_output_folder(tmp_path: Path):
    assert output_folder(str(tmp_path / "new" / "er")) == tmp_path / "new" / "er"
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for text, words in (("", "-o ''"), ("file/x", "is a file"), ("broken", "is a file")):
        with pytest.raises(OptionError, match=words):
            output_folder(text and str(tmp_path / text))
