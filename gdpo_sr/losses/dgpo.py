"""Direct Group Preference Optimization (DGPO, Luo et al., arXiv 2510.08425), the earlier neighbour
of GDPO-SR's loss.

Its gradient for one group is that of `gdpo_loss` divided by omega, if GDPO's omega is 2 omega / G:
an optimizer that adapts to the size of a gradient makes the same step. What differs is what the
papers put around it: DGPO limits the advantages, compares candidates on one noise, and may hold
the policy near the reference. Its moving reference is left out.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from gdpo_sr.losses.base import GroupErrors, RewardValues, register_loss
from gdpo_sr.losses.gdpo_loss import preference_margin
from gdpo_sr.losses.preference import OmegaOption, PreferenceLoss
from gdpo_sr.option_group import OptionGroup
from gdpo_sr.types import LossOutput


def dgpo_loss(
    policy_error: torch.Tensor,
    reference_error: torch.Tensor,
    advantages: torch.Tensor,
    omega: float | torch.Tensor = 100.0,
) -> LossOutput:
    """mean_B[w mean_i(A_i l_i)], w = sigmoid(omega / G sum_i A_i (l_i - lref_i)) without a graph.

    Arguments as `gdpo_loss`; omega is the paper's beta.

    Returns:
        scalar loss; logs: `logit` (minus what is in the sigmoid), `logit_abs`, `won`, `weight`.
    """
    size = advantages.shape[1]
    logit = -omega / size * preference_margin(policy_error, reference_error, advantages).detach()
    weight = torch.sigmoid(-logit)
    gain = preference_margin(policy_error, torch.zeros_like(reference_error), advantages) / size
    logs = {
        "logit": logit.mean(),
        "logit_abs": logit.abs().mean(),
        "won": (logit > 0).float().mean(),
        "weight": weight.mean(),
    }
    return LossOutput((weight * gain).mean(), logs)


class DGPOLossOptions(OptionGroup):
    """The group's preference as a weight of its advantages times errors (DGPO)."""

    type: Literal["dgpo"] = Field(description="Loss by its registered name.")
    omega: OmegaOption = Field(
        100.0, description="Factor in the sigmoid, DGPO's beta: 10 to 100; auto: mean |logit| 1."
    )
    advantage_clip: float = Field(5.0, gt=0, description="Largest absolute advantage.")
    kl_weight: float = Field(
        0.0, ge=0, description="Weight of the squared distance from the reference's prediction."
    )


@register_loss(DGPOLossOptions)
class DGPOLoss(PreferenceLoss):
    """All candidates, limited advantages, and a distance from the reference (`dgpo_loss`)."""

    same_noise = True

    def __init__(
        self,
        omega: float | Literal["auto"] = 100.0,
        advantage_clip: float = 5.0,
        kl_weight: float = 0.0,
    ) -> None:
        super().__init__(omega)
        self.advantage_clip, self.kl_weight = advantage_clip, kl_weight
        self.needs_drift = kl_weight > 0

    def margin(
        self, errors: GroupErrors, advantages: torch.Tensor, values: RewardValues | None
    ) -> tuple[torch.Tensor, None]:
        """2 S / G of every picture: half of omega times it is in the sigmoid."""
        margin = preference_margin(errors.policy, errors.reference, advantages)
        return 2 * margin / advantages.shape[1], None

    def __call__(
        self, errors: GroupErrors, advantages: torch.Tensor, values: RewardValues | None = None
    ) -> LossOutput:
        """Arguments and result as `GroupLoss`; logs omega and `kl` too."""
        clipped = advantages.clamp(-self.advantage_clip, self.advantage_clip)
        margin, _ = self.margin(errors, clipped, values)
        omega = self.fixed or self.scale.omega(margin, errors.reference)
        output = dgpo_loss(errors.policy, errors.reference, clipped, omega)
        logs = {**output.logs, "omega": torch.as_tensor(omega)}
        if errors.drift is None:
            return LossOutput(output.loss, logs)
        kl = errors.drift.mean()
        return LossOutput(output.loss + self.kl_weight * kl, {**logs, "kl": kl.detach()})
