"""Imitation of all candidates, weighted by their advantage: a floor for every preference method.

Errors and advantages are (B, G), or both (B, G, h, w): then every latent element imitates its own
better candidates, and a picture's loss is the mean over its elements.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from gdpo_sr.advantages import tied
from gdpo_sr.losses.base import (
    GroupErrors,
    GroupLoss,
    RewardValues,
    mean_over_elements,
    register_loss,
)
from gdpo_sr.option_group import OptionGroup
from gdpo_sr.types import LossOutput


def reward_weights(advantages: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """softmax(A / temperature) over a group, of the advantages' shape; 0 for a group that ties."""
    weights = (advantages / temperature).softmax(1)
    return torch.where(tied(advantages, 1), 0, weights)


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
    return LossOutput(mean_over_elements((weights * policy_error).sum(1)).mean(), logs)


class RewardWeightedLossOptions(OptionGroup):
    """Imitation of all candidates, weighted by their advantage."""

    type: Literal["reward_weighted"] = Field(description="Loss by its registered name.")
    temperature: float = Field(
        1.0, gt=0, description="Weights are softmax(advantage / temperature)."
    )


@register_loss(RewardWeightedLossOptions)
class RewardWeightedLoss(GroupLoss):
    """Imitation weighted by advantage (`reward_weighted_loss`)."""

    imitates = True

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def __call__(
        self, errors: GroupErrors, advantages: torch.Tensor, values: RewardValues | None = None
    ) -> LossOutput:
        """Arguments and result as `GroupLoss`."""
        return reward_weighted_loss(errors.policy, advantages, self.temperature)
