"""From scores and the content of the HR picture to the advantages of a group."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gdpo_sr.advantages import advantages_of, attribute_aware_reward, decoupled_totals
from gdpo_sr.rewards.base import Kind, Reward
from gdpo_sr.rewards.content_weights import texture_ratio


def content_weights(
    hr: torch.Tensor,
    patch_size: int = 10,
    threshold: float = 50.0,
    grey: str = "rgb",
    fixed: float | None = None,
) -> torch.Tensor:
    """rho_d (B,): textured share of hr (B, 3, H, W) in [0, 1], or `fixed` for every picture."""
    if fixed is not None:
        return torch.full((len(hr),), fixed, device=hr.device)
    return texture_ratio(hr, patch_size, threshold, grey)


def reward_values(
    scores: Mapping[str, torch.Tensor],
    rewards: Mapping[str, Reward],
    texture: torch.Tensor | None,
    estimator: str = "group",
) -> torch.Tensor:
    """What all rewards of a candidate add up to (B, G), NaN where it lacks scores.

    For "decoupled" the weighted sum of z-scores, else the attribute-aware reward of section 3.3.

    Args:
        scores: (B, G) by reward name, higher is better, NaN where a metric failed.
        rewards: weight and kind by the same names; weight 0 only reports.
        texture: rho_d (B,), from `content_weights`; None: both kinds count alike.
        estimator: one of `gdpo_sr.advantages.ESTIMATORS`.
    """
    used = {name: reward for name, reward in rewards.items() if reward.weight > 0}
    if texture is None:
        texture = torch.full((len(next(iter(scores.values()))),), 0.5)
    texture = texture.to(next(iter(scores.values())).device)
    if estimator == "decoupled":
        shares = torch.stack([_share(reward, used, texture) for reward in used.values()])
        return decoupled_totals(torch.stack([scores[name] for name in used]), shares)
    fr, fr_weights = _of_kind("fidelity", scores, used)
    nr, nr_weights = _of_kind("perception", scores, used)
    return attribute_aware_reward(fr, nr, texture, fr_weights, nr_weights)


def _of_kind(
    kind: Kind, scores: Mapping[str, torch.Tensor], rewards: Mapping[str, Reward]
) -> tuple[list[torch.Tensor], list[float]]:
    names = [name for name, reward in rewards.items() if reward.kind == kind]
    return [scores[name] for name in names], [rewards[name].weight for name in names]


def _share(reward: Reward, rewards: Mapping[str, Reward], texture: torch.Tensor) -> torch.Tensor:
    """Weight (B,) of a reward: its share of its kind, times the share of the picture's area."""
    of_kind = sum(other.weight for other in rewards.values() if other.kind == reward.kind)
    area = 1 - texture if reward.kind == "fidelity" else texture
    return area * (reward.weight / of_kind)


def estimate_advantages(
    scores: Mapping[str, torch.Tensor],
    rewards: Mapping[str, Reward],
    texture: torch.Tensor,
    estimator: str = "group",
    clip: float | None = None,
) -> torch.Tensor:
    """Advantages (B, G) where this batch is all there is; a group that ties, or a candidate without
    scores, gets 0. Arguments as `reward_values` and `gdpo_sr.advantages.advantages_of`.
    """
    values = reward_values(scores, rewards, texture, estimator)
    return advantages_of(values, estimator, clip=clip)
