"""How a picture is cut into tiles, and smaller ones when memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from gdpo_sr.types import ImageError

WHOLE_SIDE = 160  # latent pixels up to which a picture is restored whole
AUTOMATIC_TILE = 128  # side of the tiles of larger pictures
SMALLEST_TILE = 16

Result = TypeVar("Result")


@dataclass(frozen=True)
class Tiling:
    """Side and overlap of tiles in latent pixels (None: whole picture), tiles per forward pass."""

    tile: int | None
    overlap: int
    batch_size: int

    def __str__(self) -> str:
        tiles = "the whole picture" if self.tile is None else f"tiles of {self.tile}"
        return f"{tiles}, {self.batch_size} at a time"


def plan_tilings(side: float, tile: int | None, overlap: int, batch_size: int) -> Iterator[Tiling]:
    """What was asked for, then single tiles, then tiles of half the side, and so on.

    Args:
        side: the longer side of the picture in latent pixels.
        tile: as in `OneStepSRPipeline.__call__`: 0 is the whole picture, None chooses by `side`.
        overlap: wanted overlap; small tiles share a quarter.
        batch_size: tiles per forward pass.
    """
    if tile is None and side > WHOLE_SIDE:
        tile = AUTOMATIC_TILE
    current = Tiling(tile or None, overlap, batch_size)
    yield current
    if batch_size > 1:
        yield Tiling(current.tile, overlap, 1)
    smaller = min(current.tile or side, side) / 2
    while smaller >= SMALLEST_TILE:
        yield Tiling(int(smaller), min(overlap, int(smaller) // 4), 1)
        smaller /= 2


def first_that_fits(
    attempt: Callable[[Tiling], Result], tilings: Iterator[Tiling]
) -> tuple[Result, list[str]]:
    """Result of the first tiling for which memory suffices, and a message for each that failed.

    Raises:
        ImageError: it suffices for none of them.
    """
    shortages: list[str] = []
    for tiling in tilings:
        try:
            return attempt(tiling), shortages
        except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            shortages.append(f"too little memory for {tiling}")
        gc.collect()  # outside the handler, whose traceback holds the tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    raise ImageError(f"{shortages[-1]}; free memory, or use a smaller --tile or output")


def is_shortage(error: BaseException) -> bool:
    """Whether an exception of torch, Python or numpy means that memory ran out."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return "allocate memory" in str(error) or "not enough memory" in str(error)
