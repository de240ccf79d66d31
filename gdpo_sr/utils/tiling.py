"""Run a function on overlapping tiles and blend the results with feathered weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction

import torch

from gdpo_sr.types import OptionError

Box = tuple[int, int, int, int]


def tile_grid(height: int, width: int, tile: int, overlap: int) -> list[Box]:
    """Boxes (y0, y1, x0, x1) that cover height x width; neighbours share at least `overlap` rows or
    columns.

    Every box has the same size, min(tile, height) x min(tile, width): the last one of a row is
    moved inwards.

    Raises:
        OptionError: `tile` is not positive, or `overlap` is not in 0 ... tile - 1.
    """
    if tile < 1 or not 0 <= overlap < tile:
        raise OptionError(
            f"tile={tile}, overlap={overlap}: overlap must be in 0..tile-1; enlarge the tile"
        )
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    high, wide = min(tile, height), min(tile, width)
    return [(y, y + high, x, x + wide) for y in rows for x in columns]


def feather_weights(height: int, width: int, margin: int) -> torch.Tensor:
    """(height, width) weights that rise linearly over `margin` pixels from each border; all
    positive, at most 1.
    """
    return torch.outer(_ramp(height, margin), _ramp(width, margin))


def blend_tiles(
    tiles: Iterable[tuple[Box, torch.Tensor]], height: int, width: int, margin: int
) -> torch.Tensor:
    """Weighted mean of tiles where they overlap.

    Args:
        tiles: pairs of a box and its content (B, C, y1 - y0, x1 - x0); together they cover height x
            width.
        height: rows of the result.
        width: columns of the result.
        margin: pixels over which a tile fades out, as in `feather_weights`.

    Returns:
        (B, C, height, width) in the type of the tiles; the sum runs in float32 at least.
    """
    total, weight_sum, dtype = None, None, None
    for (y0, y1, x0, x1), content in tiles:
        weight = feather_weights(y1 - y0, x1 - x0, margin).to(content.device)
        if total is None or weight_sum is None:
            dtype = content.dtype
            wide = torch.promote_types(dtype, torch.float32)
            total = content.new_zeros(*content.shape[:2], height, width, dtype=wide)
            weight_sum = total.new_zeros(height, width)
        total[..., y0:y1, x0:x1] += weight * content
        weight_sum[y0:y1, x0:x1] += weight
    if total is None or weight_sum is None:
        raise OptionError("no tile to blend; give at least one")
    return (total / weight_sum).to(dtype)


def tiled_apply(
    fn: Callable[..., torch.Tensor], *inputs: torch.Tensor, tile: int, overlap: int
) -> torch.Tensor:
    """Apply `fn` tile by tile and blend; the same as ``fn(*inputs)`` where `fn` looks at single
    positions.

    Args:
        fn: maps tiles of `inputs` to (B, C, r * h', r * w') with one ratio r, whole (decoder) or
            not (encoder).
        inputs: (B, *, h, w) each, of one size h x w.
        tile: side of a tile in positions of `inputs`; a tile that covers everything calls `fn`
            once.
        overlap: positions that neighbouring tiles share.

    Raises:
        OptionError: bad `tile` or `overlap`, or tile borders that r maps between two pixels.
    """
    height, width = inputs[0].shape[-2:]
    boxes = tile_grid(height, width, tile, overlap)
    if len(boxes) == 1:
        return fn(*inputs)
    results, ratio = [], Fraction(1)
    for y0, y1, x0, x1 in boxes:
        content = fn(*(part[..., y0:y1, x0:x1] for part in inputs))
        ratio = Fraction(content.shape[-2], y1 - y0)
        box = (_scaled(y0, ratio), _scaled(y1, ratio), _scaled(x0, ratio), _scaled(x1, ratio))
        results.append((box, content))
    return blend_tiles(results, _scaled(height, ratio), _scaled(width, ratio), int(overlap * ratio))


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    last = max(size - tile, 0)
    return [*range(0, last, tile - overlap), last]


def _ramp(size: int, margin: int) -> torch.Tensor:
    """1 / (margin + 1), 2 / (margin + 1), ..., 1, ..., 1, ..., 1 / (margin + 1)."""
    from_border = torch.arange(1, size + 1, dtype=torch.float32)
    from_border = torch.minimum(from_border, from_border.flip(0))
    return (from_border / (margin + 1)).clamp(max=1.0)


def _scaled(position: int, ratio: Fraction) -> int:
    scaled = position * ratio
    if scaled.denominator != 1:
        remedy = f"make size, tile and overlap multiples of {ratio.denominator}"
        raise OptionError(
            f"tile border {position} falls between two pixels at ratio {ratio}; {remedy}"
        )
    return int(scaled)
