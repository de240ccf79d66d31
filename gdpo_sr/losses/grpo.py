"""GRPO with a Gaussian policy on the one-step output (DanceGRPO as compared in GDPO-SR table 5).

Its state is the noisy latent of the LR picture, its action x = mu_old + sigma xi what is decoded
and scored. With xi = 0 the first gradient is zero.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from gdpo_sr.losses.base import GroupErrors, GroupLoss, RewardValues, register_loss
from gdpo_sr.option_group import OptionGroup
from gdpo_sr.types import LossOutput


def clipped_loss(
    ratio: torch.Tensor, advantages: torch.Tensor, clip: float = 1e-4, advantage_clip: float = 5.0
) -> LossOutput:
    """mean max(-A r, -A clip(r, 1 - clip, 1 + clip)).

    Args:
        ratio: r, of the policy trained to that which acted; of the advantages' shape.
        advantages: any shape, clamped to +-advantage_clip.
        clip: half-width of the trust region of the ratio.

    Returns:
        scalar loss; logs: `ratio`, `clipped` (share).
    """
    a = advantages.clamp(-advantage_clip, advantage_clip)
    logs = {
        "ratio": ratio.detach().mean(),
        "clipped": ((ratio.detach() - 1).abs() > clip).float().mean(),
    }
    loss = torch.maximum(-a * ratio, -a * ratio.clamp(1 - clip, 1 + clip)).mean()
    return LossOutput(loss, logs)


def grpo_loss(
    actions: torch.Tensor,
    old_mean: torch.Tensor,
    mean: torch.Tensor,
    advantages: torch.Tensor,
    sigma: float = 0.1,
    clip: float = 1e-4,
    advantage_clip: float = 5.0,
    kl_weight: float = 0.0,
    reference_mean: torch.Tensor | None = None,
) -> LossOutput:
    """`clipped_loss` + kl_weight KL of latents (B, G, c, h, w), for callers outside.

    Args:
        actions: x, what was decoded and scored.
        old_mean: output of the policy that sampled.
        mean: output of the policy that is trained, with a graph.
        advantages: (B, G), or (B, G, h, w): then every latent element is an action with a ratio of
            its own, which the Gaussian policy's independence allows.
        sigma: standard deviation of the policy, in latent units.
        clip, advantage_clip: as `clipped_loss`.
        kl_weight, reference_mean: weight of mean ||mean - reference_mean||^2 / (2 sigma^2), and its
            reference output.

    Returns:
        scalar loss; logs: `ratio`, `clipped` (share), `kl`.
    """
    dims = -3 if advantages.ndim > 2 else (-3, -2, -1)
    policy, reference = ((actions - x).square().mean(dims) for x in (mean, old_mean))
    drift = None if reference_mean is None else (mean - reference_mean).square().mean(dims)
    errors = GroupErrors(policy, reference, drift)
    return GRPOLoss(sigma, clip, advantage_clip, kl_weight)(errors, advantages)


class GRPOLossOptions(OptionGroup):
    """Gaussian policy on the one-step output (DanceGRPO); best with sampler: policy."""

    type: Literal["grpo"] = Field(description="Loss by its registered name.")
    sigma: float = Field(
        0.1, gt=0, le=10, description="Standard deviation of the action noise, in latent units."
    )
    clip: float = Field(1e-4, gt=0, lt=1, description="Half-width of the ratio's trust region.")
    advantage_clip: float = Field(5.0, gt=0, description="Largest absolute advantage.")
    kl_weight: float = Field(0.0, ge=0, description="Weight of the divergence from the reference.")


@register_loss(GRPOLossOptions)
class GRPOLoss(GroupLoss):
    """Errors are squared distances of clean latents from the actions: of the policy, and of who
    took them. log N(x; mu, sigma) - log N(x; mu_old, sigma) = (lref - l) / (2 sigma^2).
    """

    acts = True

    def __init__(
        self,
        sigma: float = 0.1,
        clip: float = 1e-4,
        advantage_clip: float = 5.0,
        kl_weight: float = 0.0,
    ) -> None:
        self.action_sigma, self.clip = sigma, clip
        self.advantage_clip, self.kl_weight = advantage_clip, kl_weight
        self.needs_drift = kl_weight > 0

    def __call__(
        self, errors: GroupErrors, advantages: torch.Tensor, values: RewardValues | None = None
    ) -> LossOutput:
        """Arguments and result as `GroupLoss`."""
        variance = 2 * self.action_sigma**2
        ratio = ((errors.reference - errors.policy) / variance).exp()
        output = clipped_loss(ratio, advantages, self.clip, self.advantage_clip)
        if errors.drift is None:
            return output
        kl = errors.drift.mean() / variance
        return LossOutput(output.loss + self.kl_weight * kl, {**output.logs, "kl": kl.detach()})
