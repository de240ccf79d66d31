"""GRPO with a Gaussian policy on the one-step output (DanceGRPO as compared in GDPO-SR table 5)."""

from __future__ import annotations

import torch

from gdpo_sr.types import LossOutput


def log_ratio(
    actions: torch.Tensor,
    old_mean: torch.Tensor,
    mean: torch.Tensor,
    sigma: float,
    by_element: bool = False,
) -> torch.Tensor:
    """Mean over latent elements of log N(x; mean, sigma) - log N(x; old_mean, sigma); (B, G, c, h,
    w) -> (B, G), or `by_element` (B, G, h, w), the mean over channels alone.
    """
    difference = (actions - old_mean).square() - (actions - mean).square()
    return difference.mean(dim=-3 if by_element else (-3, -2, -1)) / (2 * sigma**2)


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
    """mean max(-A r, -A clip(r, 1 - clip, 1 + clip)) + kl_weight KL.

    Args:
        actions: x = old_mean + sigma xi (B, G, c, h, w), what was decoded and scored. With xi = 0
            the first gradient is zero.
        old_mean: output of the policy that sampled.
        mean: output of the policy that is trained, with a graph.
        advantages: (B, G), clamped to +-advantage_clip; or (B, G, h, w), then every latent element
            is an action with a ratio of its own, which the Gaussian policy's independence allows.
        sigma: standard deviation of the policy, in latent units.
        clip: half-width of the trust region of the ratio r.
        kl_weight, reference_mean: weight of mean ||mean - reference_mean||^2 / (2 sigma^2), and its
            reference output.

    Returns:
        scalar loss; logs: `ratio`, `clipped` (share), `kl`.
    """
    ratio = log_ratio(actions, old_mean, mean, sigma, advantages.ndim > 2).exp()
    a = advantages.clamp(-advantage_clip, advantage_clip)
    loss = torch.maximum(-a * ratio, -a * ratio.clamp(1 - clip, 1 + clip)).mean()
    logs = {
        "ratio": ratio.detach().mean(),
        "clipped": ((ratio.detach() - 1).abs() > clip).float().mean(),
    }
    if reference_mean is not None:
        kl = (mean - reference_mean).square().mean() / (2 * sigma**2)
        loss = loss + kl_weight * kl
        logs["kl"] = kl.detach()
    return LossOutput(loss, logs)
