"""Small random draws that read only the generator they are given; which photo, which crop and which
flip belong to a draw number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from gdpo_sr.shared_random import draw_rows, share_of


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """A float in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, device=generator.device))


def chance(probability: float, generator: torch.Generator) -> bool:
    """True with the given probability."""
    return uniform(0.0, 1.0, generator) < probability


def integer(low: int, high: int, generator: torch.Generator) -> int:
    """An integer in [low, high], both included."""
    shape: tuple[int, ...] = ()
    return int(torch.randint(low, high + 1, shape, generator=generator, device=generator.device))


def choose(weights: Sequence[float], generator: torch.Generator) -> int:
    """An index into `weights`, drawn in proportion to them (they need not sum to 1)."""
    target = uniform(0.0, sum(weights), generator)
    for index, weight in enumerate(weights):
        target -= weight
        if target < 0:
            return index
    return max(index for index, weight in enumerate(weights) if weight > 0)


def uniform_per_sample(
    count: int, bounds: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """(count, 1, 1, 1) float32 in [bounds[0], bounds[1]), on the generator's device."""
    unit = draw_rows(torch.rand, (count, 1, 1, 1), generator)
    return bounds[0] + (bounds[1] - bounds[0]) * unit


def generator_for(*keys: int | str) -> torch.Generator:
    """A fresh CPU generator whose stream depends on the keys alone, for example (seed, draw)."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def child_generators(count: int, generator: torch.Generator) -> list[torch.Generator]:
    """A generator on the same device for each of `count` rows, seeded by one draw and the row.

    For samplers that consume a number of draws which depends on the data (`torch.poisson`): what
    `generator` yields afterwards, and what other rows get, does not depend on the pixels.
    """
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    first = share_of(generator)[0] * count
    rows = range(first, first + count)
    return [torch.Generator(generator.device).manual_seed(seed + row) for row in rows]


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
