"""Group Direct Preference Optimization loss (GDPO-SR, arXiv 2603.16769, section 3.2)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from gdpo_sr.losses.base import GroupErrors, RewardValues, register_loss
from gdpo_sr.losses.preference import OMEGA_TEXT, OmegaOption, PreferenceLoss, preference_loss
from gdpo_sr.option_group import OptionGroup
from gdpo_sr.types import LossOutput


def preference_margin(
    policy_error: torch.Tensor, reference_error: torch.Tensor, advantages: torch.Tensor
) -> torch.Tensor:
    """S = sum_i A_i (l_i - lref_i) per image: negative when the policy moved towards the better
    candidates; (B,).

    Arguments are (B, G), or all of them (B, G, h, w): then A_i l_i is the mean over the latent
    elements of their product, each element with the advantage of its region.
    """
    change = advantages * (policy_error - reference_error)
    return change.flatten(2).mean(-1).sum(-1) if change.ndim > 2 else change.sum(-1)


def gdpo_loss(
    policy_error: torch.Tensor,
    reference_error: torch.Tensor,
    advantages: torch.Tensor,
    omega: float = 5000.0,
) -> LossOutput:
    """mean_B[-log sigmoid(-omega / 2 * S)].

    Args:
        policy_error: l (B, G), mean squared prediction error of the policy per candidate; or
            (B, G, h, w) per latent element, as the other two then.
        reference_error: lref (B, G), of the reference on the same noisy latents.
        advantages: A (B, G), mean 0 per row; a row of zeros adds a constant ln 2 and no gradient.
        omega: strength of the preference; depends on the size of the errors (5000 in the paper).

    Returns:
        scalar loss; logs: `logit` (mean of -omega/2 S), `logit_abs`, `won` (share of groups with S
        < 0).
    """
    return preference_loss(preference_margin(policy_error, reference_error, advantages), omega)


class GDPOLossOptions(OptionGroup):
    """All candidates of a group, each weighted by its advantage (the paper)."""

    type: Literal["gdpo"] = Field("gdpo", description="Loss by its registered name.")
    omega: OmegaOption = Field(5000.0, description=OMEGA_TEXT)


@register_loss(GDPOLossOptions)
class GDPOLoss(PreferenceLoss):
    """All candidates, each by its advantage (`gdpo_loss`)."""

    def margin(
        self, errors: GroupErrors, advantages: torch.Tensor, values: RewardValues | None
    ) -> tuple[torch.Tensor, None]:
        """S of every picture."""
        return preference_margin(errors.policy, errors.reference, advantages), None
