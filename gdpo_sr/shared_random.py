"""Randomness that belongs to the global batch: several processes draw what one would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


class SharedGenerator(torch.Generator):
    """A CPU generator that all processes of a run hold in the same state.

    Each process draws for the rows of all of them and keeps its own, so that W processes with
    batches of B rows get the numbers of one process with a batch of W * B.

    Args:
        rank, world: this process and how many there are.
    """

    def __new__(cls, rank: int = 0, world: int = 1) -> SharedGenerator:
        return super().__new__(cls, "cpu")

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"no process {rank} of {world}")
        self.rank, self.world = rank, world


def share_of(rng: torch.Generator) -> tuple[int, int]:
    """(rank, world) of a generator; a plain one belongs to the only process."""
    return (rng.rank, rng.world) if isinstance(rng, SharedGenerator) else (0, 1)


def own_rows(rows: Sequence[Any], rng: torch.Generator) -> Sequence[Any]:
    """This process's part of what was drawn for the rows of all processes, in order of rank."""
    rank, world = share_of(rng)
    count = len(rows) // world
    return rows[rank * count : (rank + 1) * count]


def draw_rows(
    sampler: Callable[..., torch.Tensor], shape: Sequence[int], rng: torch.Generator
) -> torch.Tensor:
    """Tensor of `shape` (rows first) from `sampler(shape, generator=, device=)`, such as
    `torch.randn`: this process's rows of the global draw, on `rng`'s device.
    """
    rows, *rest = shape
    everything = (rows * share_of(rng)[1], *rest)
    return own_rows(sampler(everything, generator=rng, device=rng.device), rng)
