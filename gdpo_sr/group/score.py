"""Scores of a group of candidates by several rewards, of whole pictures or square cells: a whole
picture's score says which candidate is better, not where. Cells are not in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from gdpo_sr.group.sample import Group
from gdpo_sr.rewards.base import Reward
from gdpo_sr.rewards.scoring import score_candidates, score_with_gradient
from gdpo_sr.utils.color_fix import apply_color_fix


@torch.no_grad()
def score_group(
    rewards: Mapping[str, Reward],
    group: Group,
    hr: torch.Tensor,
    cell_size: int | None = None,
    color_fix: str = "none",
) -> dict[str, torch.Tensor]:
    """Scores by name, (B, G) each and higher is better; NaN for a candidate on which the reward
    raises. Rewards see float32 pictures outside autocast, whoever wrote them.

    Args:
        rewards: by name.
        group: candidates.
        hr: (B, 3, H, W), RGB in [0, 1].
        cell_size: side of the cells in pixels; then (B * H/size * W/size, G), in the order of
            `split_cells`: a cell has its own fidelity, its part of a reward that gives maps, and
            else the perception of its picture, since what looks natural depends on what is
            around it.
        color_fix: "none", or candidates get the colours of their LR picture, as in inference.

    Raises:
        MetricError: wrong shapes, or a reward that returns neither (B, G) nor (B, G, h, w).
    """
    with torch.autocast(hr.device.type, enabled=False):
        images, hr = as_given_out(group, color_fix).float(), hr.float()
        if cell_size is None:
            return {n: _mean(s) for n, s in score_candidates(rewards, images, hr).items()}
        cut = {name: reward for name, reward in rewards.items() if _is_cut(reward)}
        cells = split_cells(images, cell_size), split_cells(hr, cell_size)
        scores = {n: _mean(s) for n, s in score_candidates(cut, *cells).items()}
        whole = {name: reward for name, reward in rewards.items() if name not in cut}
        found = score_candidates(whole, images, hr)
    grid = hr.shape[-2] // cell_size, hr.shape[-1] // cell_size
    scores.update({name: cells_of(s, grid) for name, s in found.items()})
    return {name: scores[name] for name in rewards}


def differentiable_scores(
    rewards: Mapping[str, Reward], group: Group, hr: torch.Tensor, color_fix: str = "none"
) -> dict[str, torch.Tensor]:
    """Scores (B, G) of whole pictures by the rewards with a weight, as `score_group`, with a graph.

    Raises:
        OptionError: a reward has no gradient.
    """
    with torch.autocast(hr.device.type, enabled=False):
        images, hr = as_given_out(group, color_fix).float(), hr.float()
        used = {name: reward for name, reward in rewards.items() if reward.weight > 0}
        return {n: _mean(score_with_gradient(n, r, images, hr)) for n, r in used.items()}


def _is_cut(reward: Reward) -> bool:
    """Whether it is shown cells cut out, one by one, instead of whole pictures."""
    return reward.kind == "fidelity" and not getattr(reward, "gives_maps", False)


def _mean(scores: torch.Tensor) -> torch.Tensor:
    """(B, G), or maps (B, G, h, w) of them -> (B, G)."""
    return scores if scores.ndim == 2 else scores.mean((-2, -1))


def cells_of(scores: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """What cells get of the scores of whole pictures, in the order of `split_cells`.

    Args:
        scores: (B, G), which all cells of a picture share, or maps (B, G, h, w), of which a cell
            gets the mean of its part.
        grid: rows and columns of cells.

    Returns:
        (B * rows * columns, G).
    """
    if scores.ndim == 2:
        return scores.repeat_interleave(grid[0] * grid[1], 0)
    return F.adaptive_avg_pool2d(scores, grid).movedim(1, -1).flatten(0, 2)


def as_given_out(group: Group, color_fix: str) -> torch.Tensor:
    """Candidates (B, G, 3, H, W) in [0, 1] with the colours of their LR picture, as inference
    writes them.
    """
    if color_fix == "none":
        return group.images
    size = group.images.shape[1]
    colours = (group.enlarged.float() / 2 + 0.5).repeat_interleave(size, 0)
    fixed = apply_color_fix(color_fix, group.images.flatten(0, 1), colours)
    return fixed.clamp(0, 1).unflatten(0, (-1, size))


def split_cells(images: torch.Tensor, cell_size: int) -> torch.Tensor:
    """Cells of `cell_size` pixels a side, picture by picture and row by row.

    Args:
        images: (B, ..., 3, H, W); H and W are multiples of `cell_size`.

    Returns:
        (B * H/cell_size * W/cell_size, ..., 3, cell_size, cell_size).
    """
    tiles = images.unflatten(-1, (-1, cell_size)).unflatten(-3, (-1, cell_size))
    return tiles.movedim((-4, -2), (1, 2)).flatten(0, 2)
