"""Scores of a group -> advantages (GDPO-SR section 3.2 and 3.3; NVIDIA's GDPO, arXiv 2601.05242,
section 3).

B images, G candidates per image, K rewards; higher scores are better. A group that ties, or a score
that is missing (NaN),
never makes another one NaN: its advantage is 0.
"""

from __future__ import annotations

import torch

Scores = torch.Tensor
EPS_GROUP = 1e-8
EPS_DECOUPLED = 1e-4


def finite_mean(values: Scores, dim: int) -> Scores:
    """Mean of the finite values along `dim` (kept); 0 where there is none."""
    finite = values.isfinite()
    count = finite.sum(dim, keepdim=True)
    return torch.where(finite, values, 0).sum(dim, keepdim=True) / count.clamp(min=1)


def finite_std(values: Scores, dim: int) -> Scores:
    """Unbiased standard deviation of the finite values along `dim` (kept); 0 for fewer than two."""
    finite = values.isfinite()
    count = finite.sum(dim, keepdim=True)
    squares = torch.where(finite, values - finite_mean(values, dim), 0).square()
    return (squares.sum(dim, keepdim=True) / (count - 1).clamp(min=1)).sqrt()


def tied(values: Scores, dim: int = -1) -> Scores:
    """True (kept along `dim`) where fewer than two finite values differ."""
    finite = values.isfinite()
    low = torch.where(finite, values, torch.inf).amin(dim, keepdim=True)
    high = torch.where(finite, values, -torch.inf).amax(dim, keepdim=True)
    return ~(high > low)


def normalize_min_max(scores: Scores) -> Scores:
    """Each group to [0, 1]: (s - min) / (max - min) over the last dimension; (B, G) -> (B, G).

    A group that ties becomes 0 throughout: it says nothing about its candidates. NaN stays NaN.
    """
    finite = scores.isfinite()
    low = torch.where(finite, scores, torch.inf).amin(-1, keepdim=True)
    high = torch.where(finite, scores, -torch.inf).amax(-1, keepdim=True)
    tie = tied(scores)
    normalized = (scores - low) / torch.where(tie, 1, high - low)
    return torch.where(finite, torch.where(tie, 0, normalized), torch.nan)


def weighted_mean(scores: list[Scores], weights: list[float] | None = None) -> Scores:
    """Weighted mean of several (B, G) scores, each min-max normalised inside its group first.

    A metric that failed on a whole group counts as a tie. A candidate that lacks one score of its
    group is NaN: it cannot be compared with the others.
    """
    normalized = torch.stack([normalize_min_max(s) for s in scores])
    silent = ~normalized.isfinite().any(-1, keepdim=True)
    normalized = torch.where(silent, 0, normalized)
    shares = normalized.new_tensor(weights or [1.0] * len(scores))[:, None, None]
    return (shares * normalized).sum(0) / shares.sum()


def attribute_aware_reward(
    fr: list[Scores],
    nr: list[Scores],
    texture: torch.Tensor,
    fr_weights: list[float] | None = None,
    nr_weights: list[float] | None = None,
) -> Scores:
    """R = rho_s mean_FR(s) + rho_d mean_NR(s) (GDPO-SR, the attribute-aware reward function).

    Args:
        fr: fidelity scores, each (B, G).
        nr: perceptual scores, each (B, G).
        texture: rho_d (B,), the textured share of each HR picture; rho_s = 1 - rho_d.
        fr_weights, nr_weights: weight of each score inside its mean; None weighs them alike.

    Returns:
        (B, G), NaN for a candidate that lacks a score.
    """
    rho_d = texture[:, None]
    reward = torch.zeros((), dtype=rho_d.dtype, device=rho_d.device)
    if fr:
        reward = reward + (1 - rho_d) * weighted_mean(fr, fr_weights)
    if nr:
        reward = reward + rho_d * weighted_mean(nr, nr_weights)
    return reward


def group_advantages(rewards: Scores) -> Scores:
    """A = (R - mean) / (std + 1e-8) inside each group, unbiased std; (B, G) -> (B, G), rows sum to
    0, never NaN.
    """
    mean, std = finite_mean(rewards, -1), finite_std(rewards, -1)
    advantages = (rewards - mean) / (std + EPS_GROUP)
    return torch.where(rewards.isfinite() & ~tied(rewards), advantages, 0)


def decoupled_advantages(rewards: torch.Tensor, weights: torch.Tensor | list[float]) -> Scores:
    """Reward-decoupled normalisation (NVIDIA's GDPO).

    Each reward is z-scored inside its group, the weighted sum is standardised over the whole batch.
    In distributed training
    gather `rewards` over all processes first.

    Args:
        rewards: (K, B, G); NaN marks a missing reward.
        weights: (K,).

    Returns:
        (B, G); 0 where every reward is missing.
    """
    shares = torch.as_tensor(weights, dtype=rewards.dtype, device=rewards.device)[:, None, None]
    mean, std = finite_mean(rewards, -1), finite_std(rewards, -1)
    scored = rewards.isfinite()
    z = torch.where(scored & ~tied(rewards), (rewards - mean) / (std + EPS_DECOUPLED), 0)
    total = torch.where(scored.any(0), (shares * z).sum(0), torch.nan).flatten()
    batch = (total - finite_mean(total, 0)) / (finite_std(total, 0) + EPS_DECOUPLED)
    return batch.nan_to_num(0.0).view(rewards.shape[1:])


def permute_within_groups(advantages: Scores, rng: torch.Generator) -> Scores:
    """Control experiment: each group's advantages, handed to its candidates at random; (B, G) ->
    (B, G).
    """
    order = torch.rand(advantages.shape, generator=rng, device=rng.device).argsort(-1)
    return advantages.gather(-1, order.to(advantages.device))
