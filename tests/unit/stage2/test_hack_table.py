"""Cheap changes and the rewards of an options file; the pictures that they like best."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from gdpo_sr.config.load import load_options
from gdpo_sr.group.hacks import HACKS
from gdpo_sr.stage2.hack_table import HackTable, table_text
from gdpo_sr.types import OptionError
from gdpo_sr.utils.image_io import read_image

ROOT = Path(__file__).resolve().parents[3]
FEW = ("datasets:val:max_images=2", "datasets:val:gt_size=96", "train:group_size=3")
PIQE = "train:reward:fidelity:blocks={metric: piqe, weight: 0.0}"


@pytest.fixture(scope="module")
def table() -> HackTable:
    file = ROOT / "options" / "gdpo_sr.yml"
    return HackTable(load_options(file, [*FEW, PIQE]))


def test_no_cheap_change_raises_the_total_of_the_main_job(table: HackTable):
    """In the mean over the pictures: noise, a grid, blur, sharpening and a colour cast."""
    rows = {row.hack: row.gains for row in table.rows()}
    assert list(rows) == list(HACKS) and all(g["total"].shape == (2,) for g in rows.values())
    assert {
        name: float(g["total"].mean()) for name, g in rows.items() if g["total"].mean() >= 0
    } == {}


def test_neither_feature_is_safe_alone(table: HackTable):
    """Else the shares of the main job would have no reason."""
    rows = {row.hack: row.gains for row in table.rows()}
    assert float(rows["sharpening"]["texture_energy"].mean()) > 0
    assert "blur" in table_text(table.rows()) and "total" in table_text(table.rows())


def test_favourites_are_written_and_what_has_no_gradient_is_named(table: HackTable, tmp_path: Path):
    [left_out] = table.write_maximised(tmp_path, steps=3)
    assert left_out == "blocks: its gradient is 0 or not finite: nothing can be maximised"
    written = {path.stem for path in tmp_path.glob("*.png")}
    assert written == {"base", "hr", "psnr_y", "texture_energy", "feature_distance", "total"}
    base, best, hr = (read_image(tmp_path / f"{n}.png") for n in ("base", "psnr_y", "hr"))
    assert torch.dist(best, hr) < torch.dist(base, hr)


@pytest.mark.parametrize("place", ["datasets/example/val", "datasets/example/val/new"])
def test_photos_are_not_replaced(place: str, monkeypatch: pytest.MonkeyPatch):
    """base.png and hr.png went among the photos, or over them."""
    main = runpy.run_path(str(ROOT / "scripts" / "hack_table.py"))["main"]
    monkeypatch.chdir(ROOT)
    before = sorted((ROOT / "datasets" / "example").rglob("*"))
    for folder, words in ((place, "is a folder of photos; name another"), ("", "give a folder")):
        with pytest.raises(OptionError, match=words):
            main(["-opt", "options/gdpo_sr.yml", "--maximised", folder])
    assert sorted((ROOT / "datasets" / "example").rglob("*")) == before
