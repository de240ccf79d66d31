"""The thresholds of a base model and what is measured for them."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest
import torch

from gdpo_sr.types import DatasetError
from gdpo_sr.utils.image_io import write_image
from tests.tiny_base import tiny_base

base_measures = importlib.import_module("base_measures")
check_base = importlib.import_module("check_base")


def grained(seed: int, size: int = 128, blur: int = 1) -> torch.Tensor:
    """(3, size, size): noise, blurred by a box."""
    noise = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(seed))
    soft = torch.nn.functional.avg_pool2d(noise, blur, 1, blur // 2, count_include_pad=False)
    return 0.5 + 0.3 * (soft[0] - 0.5).expand(3, -1, -1)


@pytest.mark.parametrize("blur", [1, 3])
def test_a_picture_without_a_grid_has_a_peak_near_one(blur: int):
    on, near = base_measures.grid_energy(grained(0, size=512, blur=blur), 4)
    assert on / near == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("period", [4, 8])
def test_a_grid_is_seen_at_its_period(period: int, axis: int):
    picture = grained(0)
    ticks = (torch.arange(128) % period == 0).float() * 0.15
    pattern = ticks.view(1, -1, 1) if axis == 1 else ticks.view(1, 1, -1)
    on, near = base_measures.grid_energy(picture, period)
    on_grid, near_grid = base_measures.grid_energy(picture + pattern, period)
    assert on_grid > 1.3 * on
    assert on_grid / near_grid > 1.3 * on / near


def test_lines_by_hand():
    """Period 4 of 16 px: lines at 4 and 8 steps; steps 0, 1 and 2 are nearest to the first."""
    found = base_measures._line_distance(16, 4).tolist()
    assert found == [4, 3, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 3]


def row_of(figures: dict, what: str) -> str:
    return next(t.row() for t in check_base.thresholds(figures) if t.what == what)


def test_thresholds_by_hand():
    bench = {
        "psnr_y": 26.0, "psnr_y_bicubic": 26.9, "ssim_y": 0.75, "ssim_y_bicubic": 0.755,
        "niqe": 6.0, "niqe_bicubic": 8.0, "piqe": 40.0, "piqe_bicubic": 90.0,
    }  # fmt: skip
    figures = {
        "val": {"psnr_y": 24.0, "psnr_y_bicubic": 24.1},
        "realsr": bench,
        "drealsr": bench,
        "all": {"textured": 5.0, "smooth": 3.0, "psnr_spread": 0.05},
        "model": {"autoencoder": 39.0, "seconds": 2.5},
    }
    assert row_of(figures, "realsr: NIQE below bicubic").endswith("| 2.000 | pass |")
    assert row_of(figures, "drealsr: NIQE below bicubic").endswith("| 2.000 | FAIL |")
    assert row_of(figures, "realsr: PSNR over bicubic").endswith("| -0.900 | pass |")
    assert row_of(figures, "the same, smooth over textured").endswith("| 0.600 | FAIL |")
    assert row_of(figures, "512x512, one thread (s)").endswith("| 2.500 | FAIL |")
    assert row_of(figures, "val: PSNR over bicubic").endswith("at least 0.200 | -0.100 | FAIL |")
    bench.update(niqe=2.9, piqe=19.0)  # twice the gain that is asked: less PSNR will do
    assert row_of(figures, "val: PSNR over bicubic").endswith("at least -0.500 | -0.100 | pass |")
    assert row_of(figures, "val: colour shift (/255)").endswith("| - | not measured |")


def test_mean_leaves_out_what_was_not_measured():
    rows = [{"a": 1.0, "b": math.nan}, {"a": 3.0, "b": 5.0}]
    assert check_base.mean_figures(rows) == {"a": 2.0, "b": 5.0}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of which one half is textured."""
    hr = grained(1, 256)
    hr[..., 128:] = 0.5
    write_image(tmp_path / "val" / "a.png", hr)
    write_image(tmp_path / "val_lr" / "a.png", grained(2, 64))
    for folder in ("realsr", "drealsr"):
        write_image(tmp_path / folder / "HR" / "b.png", hr)
        write_image(tmp_path / folder / "LR" / "b.png", grained(4, 64))
    return tmp_path


def test_the_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = tiny_base(tmp_path / "base")
    options = ["--photos", str(photos), "--bench", str(photos), "--noises", "2"]
    assert check_base.main([str(model), *options]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "not measured" not in "".join(printed)
    assert "| mean over pictures | val | realsr | drealsr | all |" in printed
    assert any(line.startswith("| niqe_std | ") for line in printed)
    verdicts = {line.rsplit("|", 2)[1].strip() for line in printed[2:25]}
    assert verdicts == {"pass", "FAIL"}


def test_names_must_match(photos: Path):
    (photos / "val_lr" / "a.png").rename(photos / "val_lr" / "other.png")
    with pytest.raises(DatasetError, match="no LR picture for a.png"):
        check_base.read_pairs(photos / "val", photos / "val_lr", None)
