"""The reward itself, through the network that restores: ReFL (Xu et al., arXiv 2304.05977) and
DRaFT (Clark et al., arXiv 2309.17400) where there is one step only.

The obvious opponent of every loss that learns from ranks: it needs rewards with a gradient, and
nothing but the distance from the reference keeps it from pictures that only please the rewards.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from gdpo_sr.losses.base import GroupErrors, GroupLoss, RewardValues, register_loss
from gdpo_sr.option_group import OptionGroup
from gdpo_sr.types import LossOutput


def reward_gradient_loss(
    values: torch.Tensor, drift: torch.Tensor | None = None, kl_weight: float = 0.0
) -> LossOutput:
    """-mean(R) + kl_weight mean(drift).

    Args:
        values: R (B, G) with a graph, NaN where there is none.
        drift: mean squared distance from the reference's predictions.
        kl_weight: of the drift.

    Returns:
        scalar loss; logs: `value`, `kl`.
    """
    value = torch.where(values.isfinite(), values, 0).mean()
    kl = values.new_zeros(()) if drift is None else drift.mean()
    return LossOutput(kl_weight * kl - value, {"value": value.detach(), "kl": kl.detach()})


class RewardGradientLossOptions(OptionGroup):
    """The rewards' own gradient through network and decoder (ReFL, DRaFT)."""

    type: Literal["reward_gradient"] = Field(description="Loss by its registered name.")
    kl_weight: float = Field(
        1.0, ge=0, description="Weight of the squared distance from the reference's prediction."
    )


@register_loss(RewardGradientLossOptions)
class RewardGradientLoss(GroupLoss):
    """Rewards of the policy's own restorations of the group's inputs (`reward_gradient_loss`)."""

    through_rewards = True
    needs_drift = True

    def __init__(self, kl_weight: float = 1.0) -> None:
        self.kl_weight = kl_weight

    def __call__(
        self, errors: GroupErrors, advantages: torch.Tensor, values: RewardValues | None = None
    ) -> LossOutput:
        """Arguments and result as `GroupLoss`; `values` have a graph.

        Raises:
            ValueError: there are no values.
        """
        if values is None:
            raise ValueError("reward_gradient needs the values of the policy's restorations")
        return reward_gradient_loss(values.values, errors.drift, self.kl_weight)
