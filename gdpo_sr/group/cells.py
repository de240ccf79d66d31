"""Groups compared cell by cell instead of picture by picture.

A whole picture's score says which candidate is better, not where: of thousands of latent elements
each gets the same advantage, and what a candidate does well in one corner pays for what it does
badly in another. Here every square cell is a picture of its own to the rewards, with its own share
of texture, and its advantages go to the latent elements that it lies on. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gdpo_sr.group.score import score_candidates
from gdpo_sr.rewards.base import Reward


def split_cells(images: torch.Tensor, size: int) -> torch.Tensor:
    """Cells of `size` pixels, picture by picture and row by row.

    Args:
        images: (B, ..., 3, H, W); H and W are multiples of `size`.
        size: side of a cell in pixels.

    Returns:
        (B * H/size * W/size, ..., 3, size, size).
    """
    tiles = images.unflatten(-1, (-1, size)).unflatten(-3, (-1, size))
    tiles = tiles.movedim((-4, -2), (1, 2))
    return tiles.flatten(0, 2)


def score_cells(
    rewards: Mapping[str, Reward], candidates: torch.Tensor, hr: torch.Tensor, size: int
) -> dict[str, torch.Tensor]:
    """As `score_candidates`, fidelity of every cell, perception of the whole picture.

    Fidelity is a sum over pixels, so a cell has one of its own. What looks natural depends on what
    is around it, and metrics of perception want whole pictures: a cell has that of its picture.

    Args:
        candidates: (B, G, 3, H, W) in [0, 1].
        hr: (B, 3, H, W) in [0, 1].
        rewards, size: as elsewhere.

    Returns:
        {name: (B * H/size * W/size, G)}, in the order of `split_cells`.
    """
    whole = {name: reward for name, reward in rewards.items() if reward.kind == "perception"}
    local = {name: reward for name, reward in rewards.items() if reward.kind == "fidelity"}
    cells = split_cells(candidates, size)
    scores = score_candidates(local, cells, split_cells(hr, size))
    count = len(cells) // len(candidates)
    for name, values in score_candidates(whole, candidates, hr).items():
        scores[name] = values.repeat_interleave(count, 0)
    return {name: scores[name] for name in rewards}


def cell_advantages(
    advantages: torch.Tensor, latent_size: tuple[int, int], batch: int
) -> torch.Tensor:
    """Advantages of cells as maps over the latent elements of their pictures.

    Args:
        advantages: (B * rows * columns, G), in the order of `split_cells`.
        latent_size: h, w; as many latent elements per cell in each direction.
        batch: B.

    Returns:
        (B, G, h, w).
    """
    count = len(advantages) // batch
    h, w = latent_size
    side = round((h * w / count) ** 0.5)
    grid = advantages.reshape(batch, h // side, w // side, -1).movedim(-1, 1)
    return grid.repeat_interleave(side, -2).repeat_interleave(side, -1)
