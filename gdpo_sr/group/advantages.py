"""From scores and texture to advantages (GDPO-SR 3.2, 3.3), by `gdpo_sr.advantages`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from gdpo_sr.advantages import (
    EPS_GROUP,
    advantages_of,
    attribute_aware_reward,
    decoupled_totals,
    permutation_within_groups,
)
from gdpo_sr.rewards.base import Kind, Reward

Scores = Mapping[str, torch.Tensor]


def group_advantages(
    scores: Scores,
    texture: torch.Tensor,
    rewards: Mapping[str, Reward],
    estimator: str = "group",
    clip: float | None = None,
    gather: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Advantages (B, G), mean 0 per row; a group that ties, or a candidate without scores, gets 0.

    Args:
        scores, texture, rewards: as `reward_values`; all groups of one update.
        estimator, clip: as `gdpo_sr.advantages.advantages_of`.
        gather: the rows of a tensor (B, G) of all processes; None: there is one.
    """
    values = reward_values(scores, texture, rewards, estimator)
    batch = values if gather is None else gather(values)
    return advantages_of(values, estimator, batch, clip)


def reward_values(
    scores: Scores,
    texture: torch.Tensor,
    rewards: Mapping[str, Reward],
    estimator: str = "group",
) -> torch.Tensor:
    """What all rewards of a candidate add up to (B, G), NaN where it lacks scores.

    For "decoupled" the weighted sum of z-scores, else the attribute-aware reward of section 3.3.

    Args:
        scores: (B, G) by reward name, higher is better, NaN where a metric failed.
        texture: rho_d (B,), the textured share of each HR picture.
        rewards: weight and kind by the same names; weight 0 only reports.
        estimator: one of `gdpo_sr.advantages.ESTIMATORS`.
    """
    used = {name: reward for name, reward in rewards.items() if reward.weight > 0}
    texture = texture.to(next(iter(scores.values())))
    if estimator == "decoupled":
        shares = torch.stack([_share(reward, used, texture) for reward in used.values()])
        return decoupled_totals(torch.stack([scores[name] for name in used]), shares)
    fr, fr_weights = _of_kind("fidelity", scores, used)
    nr, nr_weights = _of_kind("perception", scores, used)
    return attribute_aware_reward(fr, nr, texture, fr_weights, nr_weights)


def total_in_spreads(
    scores: Scores,
    spreads: Mapping[str, torch.Tensor],
    texture: torch.Tensor,
    rewards: Mapping[str, Reward],
) -> torch.Tensor:
    """sum_k share_k s_k / spread_k (B, G): what rewards in different units add up to; their graph
    is kept.

    Args:
        scores: (B, G) by reward name.
        spreads: (B, 1) by the same names, the std of a reward in a group; 0 leaves it out.
        texture: rho_d (B,).
        rewards: weight and kind by the same names; weight 0 is left out.
    """
    used = {name: reward for name, reward in rewards.items() if reward.weight > 0}
    total = torch.zeros_like(next(iter(scores.values())))
    for name, reward in used.items():
        share = _share(reward, used, texture.to(total))[:, None]
        spread = spreads[name]
        total = total + torch.where(spread > 0, share * scores[name] / (spread + EPS_GROUP), 0)
    return total


def _of_kind(
    kind: Kind, scores: Scores, rewards: Mapping[str, Reward]
) -> tuple[list[torch.Tensor], list[float]]:
    names = [name for name, reward in rewards.items() if reward.kind == kind]
    return [scores[name] for name in names], [rewards[name].weight for name in names]


def _share(reward: Reward, rewards: Mapping[str, Reward], texture: torch.Tensor) -> torch.Tensor:
    """Weight (B,) of a reward: its share of its kind, times the share of the picture's area."""
    of_kind = sum(other.weight for other in rewards.values() if other.kind == reward.kind)
    area = 1 - texture if reward.kind == "fidelity" else texture
    return area * (reward.weight / of_kind)


def permute_scores(scores: Scores, rng: torch.Generator) -> dict[str, torch.Tensor]:
    """The control experiment: all scores of a candidate handed to one of its group at random."""
    shape = tuple(next(iter(scores.values())).shape)
    order = permutation_within_groups(shape, rng)
    return {name: values.gather(-1, order.to(values.device)) for name, values in scores.items()}


def per_element(advantages: torch.Tensor, latent_size: tuple[int, int], batch: int) -> torch.Tensor:
    """Advantages of cells as maps over the latent elements that they lie on.

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
