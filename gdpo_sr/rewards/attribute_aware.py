"""From scores and the content of the HR picture to the advantages of a group."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gdpo_sr.advantages import attribute_aware_reward, group_advantages
from gdpo_sr.rewards.base import Reward
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


def estimate_advantages(
    scores: Mapping[str, torch.Tensor], rewards: Mapping[str, Reward], texture: torch.Tensor
) -> torch.Tensor:
    """Advantages (B, G), mean 0 per row; a group that ties, or a candidate without scores, gets 0.

    Args:
        scores: (B, G) by reward name, higher is better, NaN where a metric failed.
        rewards: weight and kind by the same names; weight 0 only reports.
        texture: rho_d (B,), from `content_weights`.
    """
    by_kind: dict[str, tuple[list[torch.Tensor], list[float]]] = {
        "fidelity": ([], []),
        "perception": ([], []),
    }
    for name, reward in rewards.items():
        if reward.weight > 0:
            values, weights = by_kind[reward.kind]
            values.append(scores[name])
            weights.append(reward.weight)
    (fr, fr_weights), (nr, nr_weights) = by_kind["fidelity"], by_kind["perception"]
    return group_advantages(attribute_aware_reward(fr, nr, texture, fr_weights, nr_weights))
