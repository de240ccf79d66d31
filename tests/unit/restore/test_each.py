"""make_lr.py and bicubic.py: originals stay, bad pictures are told, the others are made."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from gdpo_sr.types import DatasetError, OptionError
from gdpo_sr.utils.image_io import read_image, write_image

SCRIPTS = Path(__file__).parents[3] / "scripts"


@pytest.fixture(params=["make_lr", "bicubic"])
def script(request):
    return runpy.run_path(str(SCRIPTS / f"{request.param}.py"))["main"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "photos" / name, torch.rand(3, 64, 64))
    return tmp_path / "photos"


def test_originals_stay(script, photos: Path):
    """`-i X -o X` overwrote them."""
    before = (photos / "a.png").read_bytes()
    with pytest.raises(OptionError, match="a.png is an input"):
        script(["-i", str(photos), "-o", str(photos)])
    assert (photos / "a.png").read_bytes() == before


def test_two_names_that_become_one(script, photos: Path, tmp_path: Path):
    write_image(photos / "a.jpg", torch.rand(3, 32, 32))
    with pytest.raises(DatasetError, match="a.jpg and .*a.png would both become"):
        script(["-i", str(photos), "-o", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_bad_picture_is_told_and_the_others_are_made(script, photos: Path, tmp_path: Path, capsys):
    (photos / "a.png").write_bytes(b"nothing")
    assert script(["-i", str(photos), "-o", str(tmp_path / "out")]) == 1
    assert "photos/a.png: not a picture" in capsys.readouterr().err
    side = {"make_lr.py": 16, "bicubic.py": 256}[Path(script.__code__.co_filename).name]
    assert read_image(tmp_path / "out" / "b.png").shape == (3, side, side)
    assert not (tmp_path / "out" / "a.png").exists()


def test_what_goes_wrong_names_the_picture(tmp_path: Path, capsys):
    """It said that a size is too small to degrade, and not whose."""
    main = runpy.run_path(str(SCRIPTS / "make_lr.py"))["main"]
    write_image(tmp_path / "in" / "tiny.png", torch.rand(3, 9, 12))
    assert main(["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 1
    assert "in/tiny.png: HR size 12x8 is too small to degrade" in capsys.readouterr().err


def test_empty_paths(script, photos: Path):
    with pytest.raises(OptionError, match="-o '': give a folder"):
        script(["-i", str(photos), "-o", ""])
    with pytest.raises(DatasetError, match="an empty path was given"):
        script(["-i", "", "-o", "out"])


@pytest.mark.parametrize(
    "name, scales", [("make_lr", ("0", "-4", "9")), ("bicubic", ("nan", "1e9"))]
)
def test_a_scale_that_is_none_is_told_before_the_work(name: str, scales, photos: Path, tmp_path):
    """They ended in tracebacks: divided by zero, no integer, 128 GB of memory."""
    main = runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"]
    for scale in scales:
        with pytest.raises(OptionError, match=r"scale.*use "):
            main(["-i", str(photos), "-o", str(tmp_path / "out"), "--scale", scale])
    assert not (tmp_path / "out").exists()
