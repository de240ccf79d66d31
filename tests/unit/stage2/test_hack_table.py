"""Cheap changes must not pay with the rewards of an options file; the favourites are written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdpo_sr.config.load import load_options
from gdpo_sr.group.hacks import HACKS
from gdpo_sr.stage2.hack_table import HackTable, table_text
from gdpo_sr.utils.image_io import read_image

ROOT = Path(__file__).resolve().parents[3]
FEW = ("datasets:val:max_images=2", "datasets:val:gt_size=96", "train:group_size=3")
PIQE = "train:reward:fidelity:blocks={metric: piqe, weight: 0.0}"


@pytest.fixture(scope="module")
def table() -> HackTable:
    file = ROOT / "options" / "gdpo_sr_crisp.yml"
    return HackTable(
        load_options(file, [*FEW, "train:reward:fidelity:blocks={metric: piqe, weight: 0.0}"])
    )


def test_no_change_raises_the_total(table: HackTable):
    rows = {row.hack: row.gains for row in table.rows()}
    assert list(rows) == list(HACKS)
    for name, gains in rows.items():
        assert gains["total"].shape == (2,) and float(gains["total"].mean()) < 0, name


def test_neither_feature_is_safe_alone(table: HackTable):
    """Else the shares of the crisp setting would have no reason."""
    rows = {row.hack: row.gains for row in table.rows()}
    assert float(rows["sharpening"]["texture_energy"].mean()) > 0
    assert "blur" in table_text(table.rows()) and "total" in table_text(table.rows())


def test_favourites_are_written_and_what_has_no_gradient_is_named(table: HackTable, tmp_path: Path):
    [left_out] = table.write_maximised(tmp_path, steps=3)
    assert left_out.startswith("blocks: reward 'blocks' has no gradient")
    written = {path.stem for path in tmp_path.glob("*.png")}
    assert written == {"base", "hr", "psnr_y", "texture_energy", "feature_distance", "total"}
    base, best, hr = (read_image(tmp_path / f"{n}.png") for n in ("base", "psnr_y", "hr"))
    assert torch.dist(best, hr) < torch.dist(base, hr)
