"""A grid of equal, overlapping tiles and the weights that blend them; all in pixels."""

from __future__ import annotations

from functools import cached_property

import torch

from gdpo_sr.types import OptionError


class TileGrid:
    """Tiles of one size that cover a picture; starts and sizes are multiples of `multiple`.

    Networks with strided layers repeat themselves only at such steps, so that a tile can compute
    what the whole picture would. The last tiles may reach beyond the right and lower border, up to
    the next multiple.

    Args:
        height, width: of the picture.
        tile: side of a tile, rounded up to a multiple; None covers the picture with one tile.
        overlap: pixels that neighbours share at least, rounded up to a multiple.
        multiple: of the network.

    Attributes:
        high, wide: size of every tile.
        rows, columns: first row or column of each tile.

    Raises:
        OptionError: `tile` does not exceed twice the overlap.
    """

    def __init__(
        self, height: int, width: int, tile: int | None, overlap: int, multiple: int
    ) -> None:
        tall, broad = round_up(height, multiple), round_up(width, multiple)
        side = max(tall, broad) if tile is None else round_up(tile, multiple)
        shared = round_up(overlap, multiple)
        if overlap < 0 or max(tall, broad) > side <= 2 * shared:
            raise OptionError(
                f"tiles of {side} pixels that share {shared}: the overlap must be 0 or more and "
                "the tile must exceed twice the overlap; enlarge the tile"
            )
        self.high, self.wide = min(side, tall), min(side, broad)
        self.rows = tile_starts(tall, self.high, shared)
        self.columns = tile_starts(broad, self.wide, shared)
        self._size, self._overlap = (tall, broad), shared

    @cached_property
    def row_weights(self) -> torch.Tensor:
        """(tiles, high) vertical weights; those of all tiles sum to 1 in every row."""
        return feather_weights(self._size[0], self.high, self.rows, self._overlap)

    @cached_property
    def column_weights(self) -> torch.Tensor:
        """(tiles, wide) horizontal weights; those of all tiles sum to 1 in every column."""
        return feather_weights(self._size[1], self.wide, self.columns, self._overlap)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """First positions of tiles that cover `size`; the last one is moved inwards."""
    if size <= tile:
        return [0]
    return [*range(0, size - tile, tile - overlap), size - tile]


def feather_weights(size: int, tile: int, starts: list[int], overlap: int) -> torch.Tensor:
    """(tiles, tile) weights along one axis that sum to 1 at each of the `size` positions.

    Towards a neighbour a tile counts nothing in the outer quarter of the overlap, where its border
    disturbs it most, rises linearly over the middle half, and then counts fully.
    """
    weights = torch.ones(len(starts), tile)
    rise = _rise(tile, overlap)
    for index, start in enumerate(starts):
        if start > 0:
            weights[index] *= rise
        if start + tile < size:
            weights[index] *= rise.flip(0)
    total = torch.zeros(size)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    sums = [total[start : start + tile] for start in starts]
    return weights / torch.stack(sums)


def _rise(tile: int, overlap: int) -> torch.Tensor:
    """(tile,) weights by the distance from a border that faces a neighbour."""
    trimmed = overlap // 4
    position = torch.arange(tile) + 0.5 - trimmed
    return (position / max(overlap - 2 * trimmed, 1)).clamp(0, 1) if overlap else torch.ones(tile)
