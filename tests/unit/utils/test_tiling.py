"""Tiles cover everything, start where the network repeats itself, and their weights sum to one."""

from __future__ import annotations

import pytest
import torch

from gdpo_sr.types import OptionError
from gdpo_sr.utils.tiling import TileGrid, feather_weights, round_up, tile_starts

CASES = [(256, 256, 96, 32), (260, 124, 96, 32), (96, 400, 96, 0), (68, 76, 256, 64), (3, 5, 64, 8)]
MULTIPLE = 4


@pytest.mark.parametrize("height, width, tile, overlap", CASES)
def test_grid_covers_with_overlap(height: int, width: int, tile: int, overlap: int):
    grid = TileGrid(height, width, tile, overlap, MULTIPLE)
    for size, side, starts in ((height, grid.high, grid.rows), (width, grid.wide, grid.columns)):
        assert starts[0] == 0 and starts[-1] + side == round_up(size, MULTIPLE)
        assert all(start % MULTIPLE == 0 for start in (*starts, side))
        assert all(a + side - b >= overlap for a, b in zip(starts, starts[1:], strict=False))
    assert len(grid) == len(grid.rows) * len(grid.columns)


@pytest.mark.parametrize("height, width, tile, overlap", CASES)
def test_weights_sum_to_one(height: int, width: int, tile: int, overlap: int):
    grid = TileGrid(height, width, tile, overlap, MULTIPLE)
    total = torch.zeros(grid.rows[-1] + grid.high, grid.columns[-1] + grid.wide)
    for y, rows in zip(grid.rows, grid.row_weights, strict=True):
        for x, columns in zip(grid.columns, grid.column_weights, strict=True):
            total[y : y + grid.high, x : x + grid.wide] += torch.outer(rows, columns)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)


def test_neighbours_fade_into_each_other():
    """Tiles of 12 that share 8: nothing in the outer 2, then 1/8, 3/8, 5/8, 7/8, then all."""
    weights = feather_weights(16, 12, [0, 4], overlap=8)
    rise = torch.tensor([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1, 1, 1])
    assert torch.allclose(weights, torch.stack([rise.flip(0), rise]))


def test_one_tile():
    grid = TileGrid(30, 50, None, 64, MULTIPLE)
    assert (grid.high, grid.wide, grid.rows, grid.columns) == (32, 52, [0], [0])
    assert (grid.row_weights == 1).all() and (grid.column_weights == 1).all()
    assert tile_starts(8, 8, 8) == [0]


@pytest.mark.parametrize("tile, overlap", [(32, 16), (8, 8), (64, -1)])
def test_bad_sizes_are_named(tile: int, overlap: int):
    with pytest.raises(OptionError, match=f"tiles of {tile} pixels .* enlarge the tile"):
        TileGrid(256, 256, tile, overlap, MULTIPLE)
