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
    """Scores (B, G) by name of candidates (B, G, 3, H, W) against hr (B, 3, H, W), RGB in [0, 1];
    higher is better, NaN for a candidate on which the reward raises.

    Raises:
        MetricError: wrong shapes, or a reward that does not return (B, G).
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
        return _one_by_one(reward, candidates, hr)
    if scores.shape != candidates.shape[:2]:
        expected, got = tuple(candidates.shape[:2]), tuple(scores.shape)
        raise MetricError(
            f"reward '{name}' returned shape {got}; it must return (B, G) = {expected}"
        )
    return scores.float()


def _one_by_one(reward: Reward, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    groups, size = candidates.shape[:2]
    scores = torch.full((groups, size), torch.nan, device=candidates.device)
    for b in range(groups):
        for g in range(size):
            try:
                scores[b, g] = reward(candidates[b : b + 1, g : g + 1], hr[b : b + 1]).reshape(())
            except Exception as error:
                _LOGGER.warning("no score for candidate %d of image %d: %s", g, b, error)
    return scores
