"""Which photo, which crop and which flip belong to a draw number."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from gdpo_sr.data.draws import chance, generator_for, integer


def photos_of_draw(seed: int, draw: int, count: int) -> Iterator[int]:
    """Index of the photo of `draw`, then the ones to take instead if it is broken.

    Every epoch (`count` draws) is a permutation of its own: each photo comes once per epoch.
    """
    order = _permutation(seed, draw // count, count)
    start = draw % count
    return (order[(start + step) % count] for step in range(count))


@lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, count: int) -> list[int]:
    return torch.randperm(count, generator=generator_for("epoch", seed, epoch)).tolist()


def random_corner(
    height: int, width: int, size: int, generator: torch.Generator
) -> tuple[int, int]:
    """(top, left) of a random crop of `size` within a picture of height x width."""
    return integer(0, height - size, generator), integer(0, width - size, generator)


def crop(image: Tensor, top: int, left: int, size: int) -> Tensor:
    """(3, size, size) view of a picture (3, H, W)."""
    return image[:, top : top + size, left : left + size]


def random_flips(
    images: list[Tensor], use_hflip: bool, use_rot: bool, generator: torch.Generator
) -> list[Tensor]:
    """The same flips for all pictures: left-right; with `use_rot` up-down and transposed too."""
    hflip, vflip, transpose = (chance(0.5, generator) for _ in range(3))
    if use_hflip and hflip:
        images = [image.flip(-1) for image in images]
    if use_rot and vflip:
        images = [image.flip(-2) for image in images]
    if use_rot and transpose:
        images = [image.transpose(-1, -2) for image in images]
    return [image.contiguous() for image in images]
