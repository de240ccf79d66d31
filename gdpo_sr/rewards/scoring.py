"""Scores of candidates by several rewards; a reward that fails costs a candidate one score."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

from gdpo_sr.metrics.registry import trial_pictures
from gdpo_sr.rewards.base import Reward, check_shapes
from gdpo_sr.rewards.registry import said
from gdpo_sr.types import GDPOSRError, MetricError, OptionError

_LOGGER = logging.getLogger("gdpo_sr")


@torch.no_grad()
def score_candidates(
    rewards: Mapping[str, Reward], candidates: torch.Tensor, hr: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Scores (B, G) by name of candidates (B, G, 3, H, W) against hr (B, 3, H, W), RGB in [0, 1],
    or maps of them (B, G, h, w); higher is better, NaN for a candidate on which the reward raises.

    Raises:
        MetricError: wrong shapes, or a reward that returns neither.
    """
    return {name: _scores(name, reward, candidates, hr) for name, reward in rewards.items()}


def _scores(name: str, reward: Reward, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    check_shapes(name, candidates, hr)
    try:
        scores = reward(candidates, hr)
    except GDPOSRError:  # a mistake in the options, the same for every candidate
        raise
    except Exception as error:
        _LOGGER.warning("reward '%s' failed on a group (%s); scoring one by one", name, said(error))
        scores = _one_by_one(reward, candidates, hr)
    check_scores(name, scores, candidates)
    return scores.detach().float()  # a reward may have switched gradients on


def score_with_gradient(
    name: str, reward: Reward, candidates: torch.Tensor, hr: torch.Tensor
) -> torch.Tensor:
    """Scores with a graph of candidates with one; shapes as `score_candidates`.

    Raises:
        OptionError: the reward has no gradient.
    """
    check_shapes(name, candidates, hr)
    try:
        scores = reward(candidates, hr)
    except GDPOSRError:
        raise
    except Exception as error:  # numpy inside, or a picture too small
        raise OptionError(_no_gradient(name, said(error))) from error
    check_scores(name, scores, candidates)
    if not scores.requires_grad:
        raise OptionError(_no_gradient(name, "its scores do not depend on the pixels for autograd"))
    return scores.float()


def _no_gradient(name: str, reason: str) -> str:
    reason = reason[:120]
    return (
        f"reward '{name}' has no gradient ({reason}), but train.loss.type = reward_gradient needs "
        "one: take others, such as psnr_y, ssim, gmsd, texture_energy or feature_distance"
    )


def check_gradients(rewards: Mapping[str, Reward], size: int, device: str) -> None:
    """Try the rewards with a weight on pictures of `size` px that differ by noise.

    Raises:
        OptionError: one has no gradient.
    """
    hr, images = (part.to(device) for part in trial_pictures(size, 2))
    candidates = images[None].requires_grad_()
    for name, reward in rewards.items():
        if reward.weight > 0:
            scores = score_with_gradient(name, reward, candidates, hr)
            [gradient] = torch.autograd.grad(scores.sum(), candidates)
            if not gradient.isfinite().all() or not gradient.any():
                raise OptionError(_no_gradient(name, "it is 0 or not finite"))


def check_scores(name: str, scores: torch.Tensor, candidates: torch.Tensor) -> None:
    """Raise MetricError unless `scores` are (B, G) or (B, G, h, w) of candidates (B, G, ...)."""
    expected, got = tuple(candidates.shape[:2]), tuple(scores.shape)
    if got[:2] != expected or len(got) not in (2, 4):
        raise MetricError(
            f"reward '{name}' returned shape {got}; it must return (B, G) = {expected}, or a map "
            "(B, G, h, w)"
        )


def _one_by_one(reward: Reward, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    groups, size = candidates.shape[:2]
    found: list[torch.Tensor | None] = []
    for b in range(groups):
        for g in range(size):
            try:
                found.append(reward(candidates[b : b + 1, g : g + 1], hr[b : b + 1])[0, 0])
            except Exception as error:
                _LOGGER.warning("no score for candidate %d of image %d: %s", g, b, said(error))
                found.append(None)
    known = next((score for score in found if score is not None), candidates.new_zeros(()))
    missing = torch.full_like(known, torch.nan)
    scores = torch.stack([missing if score is None else score for score in found])
    return scores.unflatten(0, (groups, size))
