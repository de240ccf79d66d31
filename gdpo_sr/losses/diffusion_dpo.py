"""Diffusion-DPO on the best and worst candidate of a group (Wallace et al., 2023; GDPO-SR table
5).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from gdpo_sr.losses.base import GroupErrors, RewardValues, mean_over_elements, register_loss
from gdpo_sr.losses.preference import OMEGA_TEXT, OmegaOption, PreferenceLoss, preference_loss
from gdpo_sr.option_group import OptionGroup
from gdpo_sr.types import LossOutput


def pair_margin(
    policy_error: torch.Tensor, reference_error: torch.Tensor, advantages: torch.Tensor
) -> torch.Tensor:
    """(l_w - lref_w) - (l_l - lref_l) of best and worst candidate, 0 for a group that ties; (B,).

    Arguments are (B, G), or all of them (B, G, h, w): then every latent element has a best and a
    worst candidate of its own, and the margin is the mean over the elements.
    """
    change = policy_error - reference_error
    winner = advantages.argmax(1, keepdim=True)
    loser = advantages.argmin(1, keepdim=True)
    gaps = (change.gather(1, winner) - change.gather(1, loser)) * (winner != loser)
    return mean_over_elements(gaps.squeeze(1))


def diffusion_dpo_loss(
    policy_error: torch.Tensor,
    reference_error: torch.Tensor,
    advantages: torch.Tensor,
    beta: float = 5000.0,
) -> LossOutput:
    """mean_B[-log sigmoid(-beta / 2 * ((l_w - lref_w) - (l_l - lref_l)))].

    Args:
        policy_error, reference_error: (B, G) mean squared prediction errors on the same noisy
            latents; the noise of winner and loser must be the same. Or (B, G, h, w) per latent
            element, with advantages of that shape, as in `pair_margin`.
        advantages: (B, G); the largest names the winner w, the smallest the loser l. A group that
            ties has no pair and adds no gradient.
        beta: strength of the preference.

    Returns:
        scalar loss; logs: `logit`, `logit_abs`, `won`.
    """
    return preference_loss(pair_margin(policy_error, reference_error, advantages), beta)


class DiffusionDPOLossOptions(OptionGroup):
    """The best candidate of a group against the worst."""

    type: Literal["diffusion_dpo"] = Field(description="Loss by its registered name.")
    omega: OmegaOption = Field(5000.0, description=OMEGA_TEXT)


@register_loss(DiffusionDPOLossOptions)
class DiffusionDPOLoss(PreferenceLoss):
    """Best against worst (`diffusion_dpo_loss`)."""

    same_noise = True

    def margin(
        self, errors: GroupErrors, advantages: torch.Tensor, values: RewardValues | None
    ) -> tuple[torch.Tensor, None]:
        """Difference of winner and loser of every picture."""
        return pair_margin(errors.policy, errors.reference, advantages), None
