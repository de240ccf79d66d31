"""Cheap changes of pictures that must not raise a reward: what RL would do instead of restoring.

A reward is asked about candidates and about the same ones with noise, a grid, blur, sharpening or a
colour cast; and the picture that a reward likes best is found by its gradient, for one to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from gdpo_sr.advantages import finite_std
from gdpo_sr.group.advantages import total_in_spreads
from gdpo_sr.group.sample import Group, draw_noise
from gdpo_sr.group.score import as_given_out, score_group
from gdpo_sr.rewards.base import Reward
from gdpo_sr.types import OptionError

LEVEL = 5 / 255
"""Strength of noise, grid and cast: seen at a second look."""
GRID = 4
"""Period of the grid in pixels."""


def blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of pictures (N, 3, H, W), border repeated."""
    reach = round(3 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    taps = (-offsets.square() / (2 * sigma**2)).exp()
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, taps, groups=3), taps.mT, groups=3)


def _noise(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return images + LEVEL * draw_noise(tuple(images.shape), rng, images.device, images.dtype)


def _grid(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    changed = images.clone()
    changed[..., ::GRID, :] += LEVEL
    changed[..., ::GRID] += LEVEL
    return changed


def _blur(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return blurred(images, 0.8)


def _sharpening(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return 2 * images - blurred(images, 1.5)


def _colour_cast(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return images + images.new_tensor([LEVEL, 0, -LEVEL])[:, None, None]


HACKS: dict[str, Callable[[torch.Tensor, torch.Generator], torch.Tensor]] = {
    "noise": _noise,
    "grid": _grid,
    "blur": _blur,
    "sharpening": _sharpening,
    "colour_cast": _colour_cast,
}
"""By name: pictures (N, 3, H, W) in [0, 1] and randomness -> changed ones, not clamped."""


class HackRow(NamedTuple):
    """What one change does to the candidates of B pictures.

    Attributes:
        hack: its name in HACKS.
        gains: by reward, and "total": mean change of a picture's candidates (B,), in units of the
            reward's spread in the group; positive: the reward likes the change.
    """

    hack: str
    gains: dict[str, torch.Tensor]


def hack_rows(
    rewards: Mapping[str, Reward],
    group: Group,
    hr: torch.Tensor,
    texture: torch.Tensor,
    rng: torch.Generator,
    color_fix: str = "none",
) -> list[HackRow]:
    """A row for each of HACKS.

    Args:
        rewards: by name.
        group: candidates.
        hr: (B, 3, H, W), RGB in [0, 1].
        texture: rho_d (B,), weighs the kinds in the total.
        rng: of the noise.
        color_fix: as the rewards see the candidates; what is changed is what they see.
    """
    seen = replace(group, images=as_given_out(group, color_fix))
    before = score_group(rewards, seen, hr)
    spreads = {name: finite_std(scores, -1) for name, scores in before.items()}
    rows = []
    for name, change in HACKS.items():
        images = change(seen.images.flatten(0, 1), rng).clamp(0, 1)
        changed = replace(seen, images=images.unflatten(0, seen.images.shape[:2]))
        after = score_group(rewards, changed, hr)
        gaps = {reward: after[reward] - before[reward] for reward in rewards}
        gains = {k: (gap / (spreads[k] + 1e-8)).mean(-1) for k, gap in gaps.items()}
        gains["total"] = total_in_spreads(gaps, spreads, texture, rewards).mean(-1)
        rows.append(HackRow(name, gains))
    return rows


def maximised(
    score: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, steps: int
) -> torch.Tensor:
    """What `score`, pictures (N, 3, H, W) in [0, 1] -> (N,), likes best, found by its gradient from
    `images`; a step moves a pixel by 1 / 255 in the mean square, less towards the end.

    Raises:
        OptionError: the gradient is 0 or not finite.
    """
    found = images.detach().clone()
    for step in range(steps):
        found.requires_grad_()
        [gradient] = torch.autograd.grad(score(found).sum(), found)
        if not gradient.isfinite().all() or not gradient.any():
            raise OptionError("its gradient is 0 or not finite: nothing can be maximised")
        length = gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
        moved = found.detach() + (1 - step / steps) / 255 * gradient / length
        found = moved.clamp(0, 1)
    return found
