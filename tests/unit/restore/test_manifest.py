"""The manifest is JSON whatever is written, and is read whatever happened to it."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path

import pytest

from gdpo_sr.restore import manifest
from gdpo_sr.types import OptionError


def strict(text: str):
    def refuse(word: str):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_json_has_not(tmp_path: Path):
    record = {"metric": math.nan, "all": [1.5, math.inf, {"x": -math.inf}], "n": 3}
    manifest.append(tmp_path, record)
    written = strict((tmp_path / manifest.NAME).read_text())
    assert written == {"metric": None, "all": [1.5, None, {"x": None}], "n": 3}


def test_names_that_are_no_utf8(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9.png")
    manifest.append(tmp_path, {"file": name, "prompt": "schöne Wiese"})
    text = (tmp_path / manifest.NAME).read_bytes().decode("utf-8")
    assert "schöne Wiese" in text
    assert manifest.read(tmp_path)[0]["file"] == name


def test_damaged_lines_are_left_out(tmp_path: Path):
    assert manifest.read(tmp_path) == []
    (tmp_path / manifest.NAME).write_bytes(b'{"a": 1}\n[1]\n\xff\xfe\n{"b": 2}\n' + b"[" * 10**5)
    assert manifest.read(tmp_path) == [{"a": 1}, {"b": 2}]


def test_a_link_is_not_followed(tmp_path: Path):
    (tmp_path / "elsewhere").write_text("mine\n")
    (tmp_path / manifest.NAME).symlink_to(tmp_path / "elsewhere")
    for use in (manifest.read, lambda folder: manifest.append(folder, {})):
        with pytest.raises(OptionError, match="is a link and is not followed; remove it"):
            use(tmp_path)
    assert (tmp_path / "elsewhere").read_text() == "mine\n"


def test_mode_follows_the_umask(tmp_path: Path):
    before = os.umask(0o002)
    try:
        manifest.append(tmp_path, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / manifest.NAME).stat().st_mode) == 0o664
