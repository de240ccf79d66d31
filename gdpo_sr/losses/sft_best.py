"""Imitation of the best candidate of each group: a floor for every preference method."""

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


def best_error(policy_error: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """l of the candidate with the largest advantage, 0 for a group that ties; (B,).

    Arguments are (B, G), or both (B, G, h, w): then every latent element has a best candidate of
    its own, and a picture's error is the mean over its elements.
    """
    best = policy_error.gather(1, advantages.argmax(1, keepdim=True))
    return mean_over_elements(torch.where(tied(advantages, 1), 0, best).squeeze(1))


def sft_best_loss(policy_error: torch.Tensor, advantages: torch.Tensor) -> LossOutput:
    """mean_B[l_best]: supervised fine-tuning on the best candidate; arguments as `best_error`.

    Returns:
        scalar loss; logs: `error_best`.
    """
    loss = best_error(policy_error, advantages).mean()
    return LossOutput(loss, {"error_best": loss.detach()})


class SFTBestLossOptions(OptionGroup):
    """Imitation of the best candidate."""

    type: Literal["sft_best"] = Field(description="Loss by its registered name.")


@register_loss(SFTBestLossOptions)
class SFTBestLoss(GroupLoss):
    """Imitation of the best candidate (`sft_best_loss`)."""

    imitates = True

    def __call__(
        self, errors: GroupErrors, advantages: torch.Tensor, values: RewardValues | None = None
    ) -> LossOutput:
        """Arguments and result as `GroupLoss`."""
        return sft_best_loss(errors.policy, advantages)
