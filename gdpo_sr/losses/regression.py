"""Floors that every preference method must beat: imitation of the better candidates.

Errors and advantages are (B, G), or both (B, G, h, w): then every latent element imitates its own
better candidates, and a picture's loss is the mean over its elements.
"""

from __future__ import annotations

import torch

from gdpo_sr.advantages import tied
from gdpo_sr.losses.elements import mean_over_elements
from gdpo_sr.types import LossOutput


def reward_weights(advantages: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """softmax(A / temperature) over a group, of the advantages' shape; 0 for a group that ties."""
    weights = (advantages / temperature).softmax(1)
    return torch.where(tied(advantages, 1), 0, weights)


def weighted_error(policy_error: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """sum_i w_i l_i; (B,)."""
    return mean_over_elements((weights * policy_error).sum(1))


def best_error(policy_error: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """l of the candidate with the largest advantage, 0 for a group that ties; (B,)."""
    best = policy_error.gather(1, advantages.argmax(1, keepdim=True))
    return mean_over_elements(torch.where(tied(advantages, 1), 0, best).squeeze(1))


def reward_weighted_loss(
    policy_error: torch.Tensor, advantages: torch.Tensor, temperature: float = 1.0
) -> LossOutput:
    """mean_B[sum_i w_i l_i], w = softmax(A / temperature) (reward-weighted regression).

    Args:
        policy_error: l.
        advantages: a group that ties is left out.
        temperature: small: only the best counts; large: all alike.

    Returns:
        scalar loss; logs: `weight_best`, the mean weight of the best candidate.
    """
    weights = reward_weights(advantages, temperature)
    logs = {"weight_best": weights.amax(1).mean()}
    return LossOutput(weighted_error(policy_error, weights).mean(), logs)


def sft_best_loss(policy_error: torch.Tensor, advantages: torch.Tensor) -> LossOutput:
    """mean_B[l_best]: supervised fine-tuning on the best candidate of each group.

    Arguments as `reward_weighted_loss`.

    Returns:
        scalar loss; logs: `error_best`.
    """
    loss = best_error(policy_error, advantages).mean()
    return LossOutput(loss, {"error_best": loss.detach()})
