"""evaluate.py on real folders: the table, the JSON file, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gdpo_sr.evaluate import main
from gdpo_sr.types import DatasetError, OptionError
from gdpo_sr.utils.image_io import read_image, write_image


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three results of 128x128 (one as WebP) beside their ground truth."""
    generator = torch.Generator().manual_seed(0)
    results, truth = tmp_path / "results", tmp_path / "gt"
    for index, suffix in enumerate([".png", ".png", ".webp"]):
        image = (
            torch.rand(3, 16, 16, generator=generator)
            .repeat_interleave(8, 1)
            .repeat_interleave(8, 2)
        )
        noise = 0.05 * torch.randn(image.shape, generator=generator)
        write_image(truth / f"{index}.png", image)
        write_image(results / f"{index}{suffix}", image + noise)
    return results, truth


def test_table_and_json(folders: tuple[Path, Path], tmp_path: Path, capsys):
    results, truth = folders
    saved = tmp_path / "new" / "scores.json"
    assert main(["-i", str(results), "-g", str(truth), "--save_json", str(saved)]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [
        line for line in lines if line.split()[0] in ("metric", "psnr_y", "ssim_y", "niqe", "piqe")
    ]
    assert len(table) == 5 and len({len(line) for line in table}) == 1
    assert "psnr_y ↑" in table[1] and "niqe ↓" in table[3] and table[1].endswith(" 3")
    content = json.loads(saved.read_text())
    scores = [image["psnr_y"] for image in content["images"].values()]
    assert list(content["images"]) == ["0.png", "1.png", "2.webp"]
    assert content["mean"]["psnr_y"] == pytest.approx(sum(scores) / 3)
    assert [p.name for p in saved.parent.iterdir()] == ["scores.json"]


def test_without_ground_truth(folders: tuple[Path, Path], capsys):
    assert main(["-i", str(folders[0])]) == 0
    table = capsys.readouterr().out
    assert "niqe" in table and "psnr_y" not in table
    with pytest.raises(OptionError, match="psnr_y: needs a reference.*-g"):
        main(["-i", str(folders[0]), "--metrics", "piqe", "psnr_y"])


def test_crop_border(folders: tuple[Path, Path], tmp_path: Path):
    """A wrong frame of 4 pixels does not count when 4 pixels are cropped."""
    _, truth = folders
    for path in truth.iterdir():
        image = read_image(path)
        image[:, :4] = image[:, -4:] = 0
        write_image(tmp_path / "framed" / path.name, image)
    saved = tmp_path / "scores.json"
    arguments = ["-i", str(tmp_path / "framed"), "-g", str(truth), "--metrics", "psnr_y"]
    main([*arguments, "--save_json", str(saved), "--crop_border", "4"])
    assert json.loads(saved.read_text())["mean"]["psnr_y"] == pytest.approx(80, abs=1e-3)
    with pytest.raises(OptionError, match="-1"):
        main([*arguments, "--crop_border", "-1"])


def test_bad_pictures_do_not_stop_the_others(folders: tuple[Path, Path], tmp_path: Path, capsys):
    results, truth = folders
    content = (results / "0.png").read_bytes()
    (results / "0.png").write_bytes(content[: len(content) // 2])
    write_image(results / "1.png", torch.rand(3, 64, 96))
    saved = tmp_path / "scores.json"
    arguments = ["-i", str(results), "-g", str(truth), "--metrics", "psnr_y"]
    assert main([*arguments, "--save_json", str(saved)]) == 1
    output = capsys.readouterr()
    assert output.out.splitlines()[-1].endswith(" 1")
    assert "0.png: cannot read" in output.err and "96x64 differs from 128x128" in output.err
    written = json.loads(saved.read_text())
    assert list(written["images"]) == ["2.webp"] and set(written["problems"]) == {"0.png", "1.png"}


def test_picture_without_a_score_is_listed(tmp_path: Path, capsys):
    """NIQE needs 96 pixels; the JSON file says null, which NaN is not."""
    write_image(tmp_path / "r" / "small.png", torch.rand(3, 32, 32))
    saved = tmp_path / "scores.json"
    assert main(["-i", str(tmp_path / "r"), "--save_json", str(saved)]) == 1
    assert "small.png: no score of niqe" in capsys.readouterr().err
    content = json.loads(saved.read_text())
    assert content["images"]["small.png"]["niqe"] is None and content["count"]["niqe"] == 0


def test_names_must_match(folders: tuple[Path, Path]):
    results, truth = folders
    (results / "1.png").rename(results / "other.png")
    with pytest.raises(DatasetError, match="gt: other; .*results: 1;"):
        main(["-i", str(results), "-g", str(truth)])


def test_same_stem_twice(folders: tuple[Path, Path]):
    results, truth = folders
    write_image(results / "1.jpg", torch.rand(3, 8, 8))
    with pytest.raises(DatasetError, match="same stem"):
        main(["-i", str(results), "-g", str(truth)])


def test_missing_folder(tmp_path: Path):
    with pytest.raises(DatasetError, match="no such file or folder"):
        main(["-i", str(tmp_path / "nowhere")])
