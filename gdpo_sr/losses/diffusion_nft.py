"""DiffusionNFT (Zheng et al., arXiv 2509.16117) on the one step.

The policy's answer p, mixed with the reference's answer o, gives a positive one, o + mix (p - o),
that is to restore good candidates, and its mirror image, o - mix (p - o), that is to restore bad
ones. With a = p - x and b = o - x for a candidate x, the two squared errors follow from l = |a|^2,
lref = |b|^2 and the drift |p - o|^2 = |a - b|^2 alone. The paper's old policy is the reference.
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

SMALLEST_SIZE = 1e-5
"""Of an error, which the loss is divided by."""


def mixed_errors(errors: GroupErrors, mix: float) -> tuple[torch.Tensor, torch.Tensor]:
    """|b + mix (a - b)|^2 and |b - mix (a - b)|^2, of the errors' shape.

    Raises:
        ValueError: the errors are without drift.
    """
    gain, bend = mix * (errors.policy - errors.reference), mix * _drift(errors)
    positive = errors.reference + gain - (1 - mix) * bend
    negative = errors.reference - gain + (1 + mix) * bend
    return positive.clamp(min=0), negative.clamp(min=0)


def _drift(errors: GroupErrors) -> torch.Tensor:
    if errors.drift is None:
        raise ValueError("diffusion_nft needs the drift: give GroupErrors with it")
    return errors.drift


def diffusion_nft_loss(
    errors: GroupErrors, advantages: torch.Tensor, mix: float = 1.0, advantage_clip: float = 5.0
) -> LossOutput:
    """clip / mix mean[r e+ / |e+| + (1 - r) e- / |e-|], r = A / (2 clip) + 1/2 limited to [0, 1].

    e+ and e- are `mixed_errors`, |e| the root of a candidate's mean error, without a graph (the
    paper takes the mean absolute error). A group that ties adds nothing.

    Args:
        errors: with drift, (B, G), or all of them (B, G, h, w).
        advantages: of the same shape.
        mix: the paper's beta.
        advantage_clip: advantage from which a candidate is wholly good or bad.

    Returns:
        scalar loss; logs: `good` (mean r).
    """
    r = (advantages / (2 * advantage_clip) + 0.5).clamp(0, 1)
    positive, negative = (error / _size(error) for error in mixed_errors(errors, mix))
    loss = torch.where(tied(advantages, 1), 0, r * positive + (1 - r) * negative).mean(1)
    return LossOutput(
        advantage_clip / mix * mean_over_elements(loss).mean(), {"good": r.detach().mean()}
    )


def _size(errors: torch.Tensor) -> torch.Tensor:
    """Root of every candidate's mean error, (B, G) or (B, G, 1, 1), without a graph."""
    mean = errors.detach()
    mean = mean if mean.ndim == 2 else mean.mean((2, 3), keepdim=True)
    return mean.sqrt().clamp(min=SMALLEST_SIZE)


class DiffusionNFTLossOptions(OptionGroup):
    """Good candidates restored by the policy, bad ones by its mirror image (DiffusionNFT)."""

    type: Literal["diffusion_nft"] = Field(description="Loss by its registered name.")
    mix: float = Field(
        1.0, gt=0, le=1, description="Share of the policy in the positive answer; NFT's beta."
    )
    advantage_clip: float = Field(
        5.0, gt=0, description="Advantage from which a candidate is wholly good, or wholly bad."
    )
    kl_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the squared distance from the reference's prediction; the released "
        "code: 1e-4.",
    )


@register_loss(DiffusionNFTLossOptions)
class DiffusionNFTLoss(GroupLoss):
    """Positive and negative answers (`diffusion_nft_loss`), held near the reference."""

    imitates = True
    needs_drift = True

    def __init__(
        self, mix: float = 1.0, advantage_clip: float = 5.0, kl_weight: float = 0.0
    ) -> None:
        self.mix, self.advantage_clip, self.kl_weight = mix, advantage_clip, kl_weight

    def __call__(
        self, errors: GroupErrors, advantages: torch.Tensor, values: RewardValues | None = None
    ) -> LossOutput:
        """Arguments and result as `GroupLoss`; logs `kl` too."""
        output = diffusion_nft_loss(errors, advantages, self.mix, self.advantage_clip)
        kl = _drift(errors).mean()
        logs = {**output.logs, "kl": kl.detach()}
        return LossOutput(output.loss + self.kl_weight * kl, logs)
