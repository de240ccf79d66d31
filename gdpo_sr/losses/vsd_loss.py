"""Variational score distillation, as in OSEDiff and stage 1 of GDPO-SR."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gdpo_sr.types import LossOutput


def classifier_free_guidance(
    positive: torch.Tensor, negative: torch.Tensor, scale: float = 7.5
) -> torch.Tensor:
    """negative + scale (positive - negative), of two noise predictions."""
    return negative + scale * (positive - negative)


def vsd_loss(latents: torch.Tensor, x0_real: torch.Tensor, x0_fake: torch.Tensor) -> LossOutput:
    """MSE(z, stopgrad(z - g)) with g = (x_fake - x_real) / mean|z - x_real|, so that d loss / d z =
    2 g / numel.

    A picture with z = x_real has no scale to divide by; its g is 0.

    Args:
        latents: z_SR (B, c, h, w), with a graph.
        x0_real: x0 that the frozen base predicts from the noised latents, with guidance (B, c, h,
            w).
        x0_fake: x0 that the fake-score network predicts (B, c, h, w).

    Returns:
        scalar loss; logs: `gradient`, the mean absolute value of g.
    """
    z = latents.detach()
    weight = (z - x0_real).abs().mean(dim=(1, 2, 3), keepdim=True)
    gradient = ((x0_fake - x0_real) / weight).nan_to_num(0.0, 0.0, 0.0).detach()
    return LossOutput(F.mse_loss(latents, z - gradient), {"gradient": gradient.abs().mean()})
