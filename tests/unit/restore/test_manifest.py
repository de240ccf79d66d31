"""The manifest is JSON whatever is written, and is read whatever happened to it."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path

import pytest

from gdpo_sr.restore import manifest
from gdpo_sr.restore.plan import Job
from gdpo_sr.restore.settings import check_kinds, standing
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


def test_a_folder_in_its_place_is_told(tmp_path: Path):
    """It ended in a traceback."""
    (tmp_path / manifest.NAME).mkdir()
    for use in (manifest.read, lambda folder: manifest.append(folder, {})):
        with pytest.raises(OptionError, match="manifest.jsonl is no file; remove it"):
            use(tmp_path)


def test_records_of_another_shape_are_unknown(tmp_path: Path):
    """A manifest that somebody edited ended in a traceback."""
    job = Job(tmp_path / "in.png", tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"x")
    for made_by in ("x", [1], None, 3):
        manifest.append(tmp_path, {"status": "done", "place": "a.png", "made_by": made_by})
    assert standing([job], tmp_path, {}, {}).unknown == [job]


def test_a_map_that_is_gone_is_made_again(tmp_path: Path):
    job = Job(tmp_path / "in.png", tmp_path / "a.png", tmp_path / "uncertainty" / "a.png")
    (tmp_path / "a.png").write_bytes(b"x")
    made_by = {"input": None, "caption": None}
    manifest.append(tmp_path, {"status": "done", "place": "a.png", "made_by": made_by})
    assert standing([job], tmp_path, {}, {}).todo == [job]
    job.heat_map.parent.mkdir()
    job.heat_map.write_bytes(b"x")
    assert standing([job], tmp_path, {}, {}).kept == [job]


def test_maps_and_results_of_two_commands(tmp_path: Path):
    """One folder, first with -r and a folder `uncertainty`, then with --uncertainty: the map took
    the place of a result; and the other way round.
    """
    inner = tmp_path / "uncertainty" / "a.png"
    with_map, result = Job(tmp_path / "b", tmp_path / "a.png", inner), Job(tmp_path / "c", inner)
    inner.parent.mkdir()
    inner.write_bytes(b"x")
    manifest.append(tmp_path, {"status": "done", "place": "uncertainty/a.png"})
    check_kinds([result], tmp_path)
    with pytest.raises(OptionError, match="uncertainty/a.png is the result of an earlier command"):
        check_kinds([with_map], tmp_path)
    (tmp_path / manifest.NAME).unlink()
    manifest.append(tmp_path, {"status": "done", "place": "a.png", "map": "uncertainty/a.png"})
    check_kinds([with_map], tmp_path)
    with pytest.raises(OptionError, match="uncertainty/a.png is the map of an earlier command"):
        check_kinds([result], tmp_path)
    inner.unlink()
    check_kinds([result], tmp_path)
