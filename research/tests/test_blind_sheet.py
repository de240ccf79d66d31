"""Blind comparisons: what is hidden, what is counted."""

from __future__ import annotations

import json
from pathlib import Path

import blind_sheet
import pytest
import torch

from gdpo_sr.types import OptionError
from gdpo_sr.utils.image_io import read_image, write_image


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Grey first pictures, white second ones, originals with a textured corner."""
    found = {name: tmp_path / name for name in ("first", "second", "original")}
    for folder in found.values():
        folder.mkdir()
    original = torch.full((3, 160, 224), 0.5)
    original[:, 16:144, 96:224] += 0.3 * torch.randn(1, 128, 128).clamp(-1, 1)
    for stem in "abcde":
        write_image(found["original"] / f"{stem}.png", original.clamp(0, 1))
        write_image(found["first"] / f"{stem}.png", torch.full((3, 160, 224), 0.5))
        write_image(found["second"] / f"{stem}.png", torch.ones(3, 160, 224))
    return found


def arguments(folders: dict[str, Path], sheet: Path) -> list[str]:
    given = [word for name, folder in folders.items() for word in (f"--{name}", str(folder))]
    return ["make", str(sheet), *given]


def test_the_key_says_what_stands_where(folders: dict[str, Path], tmp_path: Path):
    sheet = tmp_path / "sheet"
    assert blind_sheet.main(arguments(folders, sheet)) == 0
    key = json.loads((sheet / "key.json").read_text())
    assert len(key) == 10 and {tuple(row) for row in key} == {
        ("first", "second"),
        ("second", "first"),
    }
    picture = read_image(sheet / "rows_1.png")
    height = picture.shape[1] // 6
    middle = [float(picture[0, i * height + height // 2, 60]) for i in range(6)]
    assert [value > 0.9 for value in middle] == [row[0] == "second" for row in key[:6]]


def test_one_crop_is_where_the_texture_is(folders: dict[str, Path]):
    original = read_image(folders["original"] / "a.png")
    rng = torch.Generator().manual_seed(0)
    assert blind_sheet.place(original, True, rng) == (16, 96)
    top, left = blind_sheet.place(original, False, rng)
    assert 0 <= top <= 32 and 0 <= left <= 96


def test_answers_are_counted_by_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    key = [["first", "second"], ["second", "first"], ["second", "first"], ["first", "second"]]
    (tmp_path / "key.json").write_text(json.dumps(key))
    answers = tmp_path / "answers.txt"
    answers.write_text("right\nleft\nsame\nleft\n")
    assert blind_sheet.main(["count", str(tmp_path), str(answers)]) == 0
    assert "4 rows: second 2, first 1, same 1; by lot with probability 1.00" in (
        capsys.readouterr().out
    )
    with pytest.raises(OptionError, match="2 answers for 4 rows, unknown: \\['up'\\]"):
        blind_sheet.picked(key, ["left", "up"])


def test_the_sign_test():
    """9 of 10: 2 (10 + 1) / 1024."""
    assert blind_sheet.chance(1, 9) == pytest.approx(22 / 1024)
    assert blind_sheet.chance(5, 5) == 1 and blind_sheet.chance(0, 0) == 1


def test_other_sizes_and_missing_pictures_are_named(folders: dict[str, Path], tmp_path: Path):
    write_image(folders["second"] / "b.png", torch.ones(3, 80, 80))
    with pytest.raises(OptionError, match=r"b.png: 80x80 px, its original 224x160 px"):
        blind_sheet.main(arguments(folders, tmp_path / "sheet"))
    (folders["second"] / "b.png").unlink()
    with pytest.raises(OptionError, match="0 pictures named b, needed: one"):
        blind_sheet.main(arguments(folders, tmp_path / "sheet"))
