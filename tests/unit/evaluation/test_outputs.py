"""What an evaluation would write is looked at before its work."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdpo_sr.evaluate import main
from gdpo_sr.types import OptionError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture that nothing can read, a file of scores that is none, a link to the picture."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"mine")
    (tmp_path / "in" / "scores.json").write_bytes(b"mine")
    (tmp_path / "in" / "link.json").symlink_to("a.png")
    return tmp_path / "in"


@pytest.mark.parametrize(
    "options, reason",
    [
        (("--save_json", "a.png"), "--save_json: .*a.png is no .json file"),
        (("--save_json", "link.json"), "--save_json: .*link.json is no .json file"),
        (("--save_json", "scores.json"), "--save_json: .*scores.json is an input"),
        (("--save_json", ".."), "--save_json: .* is a folder"),
        (("--save_json", "a.png/x.json"), "--save_json .*a.png is a file; give a folder"),
        (("--save", "a.png"), "--save .*a.png is a file; give a folder"),
        (("--report", "a.png/x"), "--report .*a.png is a file; give a folder"),
        (("--save", "."), "--save: .*scores.json is an input"),
        (("--report", "."), "--report: .*scores.json is an input"),
    ],
)
def test_inputs_and_pictures_stay(folder: Path, options: tuple[str, str], reason: str):
    """They were overwritten, or the scores lost when the work was done."""
    option, name = options
    inputs = ["-i", f"old={folder}", str(folder / "scores.json")]
    with pytest.raises(OptionError, match=reason):
        main([*inputs, option, str(folder / name)])
    assert {path.read_bytes() for path in folder.iterdir()} == {b"mine"}


@pytest.mark.parametrize("option", ["--save_json", "--save", "--report"])
def test_empty_names(folder: Path, option: str):
    with pytest.raises(OptionError, match=f"{option}.*(name|give) a"):
        main(["-i", str(folder), option, ""])
