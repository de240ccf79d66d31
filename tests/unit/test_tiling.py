"""Tiles cover everything, and tiled equals untiled where it must."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gdpo_sr.types import OptionError
from gdpo_sr.utils.tiling import blend_tiles, feather_weights, tile_grid, tiled_apply

CASES = [(64, 64, 24, 8), (65, 31, 24, 8), (24, 100, 24, 0), (17, 19, 64, 16), (50, 41, 8, 7)]


@pytest.mark.parametrize("height, width, tile, overlap", CASES)
def test_grid_covers_with_overlap(height: int, width: int, tile: int, overlap: int):
    boxes = tile_grid(height, width, tile, overlap)
    covered = torch.zeros(height, width)
    for y0, y1, x0, x1 in boxes:
        assert (y1 - y0, x1 - x0) == (min(tile, height), min(tile, width))
        covered[y0:y1, x0:x1] += 1
    assert covered.min() >= 1
    rows = sorted({box[:2] for box in boxes})
    assert all(above[1] - below[0] >= overlap for above, below in zip(rows, rows[1:], strict=False))
    assert len(set(boxes)) == len(boxes)


def test_feather_weights():
    """With a margin of 3 the weights rise by quarters: 1/4, 2/4, 3/4, 1, ..."""
    weights = feather_weights(1, 9, 3)[0] / feather_weights(1, 9, 3).max()
    assert torch.allclose(weights, torch.tensor([1, 2, 3, 4, 4, 4, 3, 2, 1]) / 4)
    assert (feather_weights(5, 7, 3) > 0).all()


@pytest.mark.parametrize("height, width, tile, overlap", CASES)
def test_pointwise_function_is_exact(height: int, width: int, tile: int, overlap: int):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 2, 4, height, width, generator=generator)
    result = tiled_apply(lambda a, b: a * b + 1, first, second, tile=tile, overlap=overlap)
    assert torch.allclose(result, first * second + 1, atol=1e-6)


@pytest.mark.parametrize("ratio", [8, 2, 0.5, 0.125])
def test_results_of_another_size(ratio: float):
    """Nearest resizing looks at single positions; all borders are multiples of 8."""
    image = torch.randn(1, 3, 64, 104, generator=torch.Generator().manual_seed(0))

    def resize(part: torch.Tensor) -> torch.Tensor:
        return F.interpolate(part, scale_factor=ratio, mode="nearest")

    result = tiled_apply(resize, image, tile=32, overlap=8)
    assert torch.allclose(result, resize(image), atol=1e-6)


def test_large_tile_is_one_call():
    image, calls = torch.randn(1, 4, 16, 20, generator=torch.Generator().manual_seed(0)), []
    result = tiled_apply(lambda x: calls.append(x) or x, image, tile=32, overlap=8)
    assert len(calls) == 1 and torch.equal(result, image)


def test_neighbours_fade_into_each_other():
    """Tiles of 0 and 1 that share 3 columns: the blend rises by quarters, 1/4, 1/2, 3/4."""
    tiles = [((0, 1, 0, 8), torch.zeros(1, 1, 1, 8)), ((0, 1, 5, 13), torch.ones(1, 1, 1, 8))]
    blend = blend_tiles(tiles, 1, 13, margin=3).flatten()
    assert torch.allclose(blend, torch.tensor([0] * 5 + [0.25, 0.5, 0.75] + [1] * 5), atol=1e-6)


def test_half_precision_is_kept():
    image = torch.rand(1, 4, 40, 40, generator=torch.Generator().manual_seed(0)).half()
    result = tiled_apply(lambda x: x, image, tile=16, overlap=4)
    assert result.dtype == torch.float16 and torch.allclose(result, image, atol=1e-3)


@pytest.mark.parametrize("tile, overlap", [(0, 0), (8, 8), (8, -1)])
def test_bad_sizes_are_named(tile: int, overlap: int):
    with pytest.raises(OptionError, match=f"tile={tile}, overlap={overlap}"):
        tile_grid(32, 32, tile, overlap)


def test_borders_between_pixels_are_named():
    with pytest.raises(OptionError, match="multiples of 2"):
        tiled_apply(lambda x: F.avg_pool2d(x, 2), torch.zeros(1, 1, 32, 32), tile=16, overlap=3)
