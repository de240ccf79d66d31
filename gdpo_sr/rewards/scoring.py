"""Scores of candidates by several rewards; a reward that fails costs a candidate one score."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

from gdpo_sr.rewards.base import Reward, check_shapes
from gdpo_sr.types import GDPOSRError, MetricError

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
        _LOGGER.warning("reward '%s' failed on a group (%s); scoring one by one", name, error)
        scores = _one_by_one(reward, candidates, hr)
    check_scores(name, scores, candidates)
    return scores.float()


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
                _LOGGER.warning("no score for candidate %d of image %d: %s", g, b, error)
                found.append(None)
    known = next((score for score in found if score is not None), candidates.new_zeros(()))
    missing = torch.full_like(known, torch.nan)
    scores = torch.stack([missing if score is None else score for score in found])
    return scores.unflatten(0, (groups, size))
