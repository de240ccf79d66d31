"""Scores of a group -> advantages (GDPO-SR section 3.2 and 3.3; NVIDIA's GDPO, arXiv 2601.05242,
section 3).

B images, G candidates per image, K rewards; higher scores are better. A group that ties, or a score
that is missing (NaN),
never makes another one NaN: its advantage is 0.
"""

from __future__ import annotations

import torch

from gdpo_sr.shared_random import draw_rows

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
    return _without_missing(rewards, (rewards - mean) / (std + EPS_GROUP))


def mean_only_advantages(rewards: Scores) -> Scores:
    """A = R - mean inside each group, no division: a clear group counts more than a close one.

    (B, G) -> (B, G); 0 for a tied group and for a missing reward.
    """
    return _without_missing(rewards, rewards - finite_mean(rewards, -1))


def batch_std_advantages(rewards: Scores, batch: Scores | None = None) -> Scores:
    """A = (R - group mean) / (std over the whole batch + 1e-4) (Liu et al., arXiv 2508.08221).

    Args:
        rewards: (B, G), NaN where one is missing.
        batch: (N, G), all groups of all processes and accumulation steps; None: `rewards` alone.
    """
    std = finite_std((rewards if batch is None else batch).flatten(), 0)
    return mean_only_advantages(rewards) / (std + EPS_DECOUPLED)


def _without_missing(rewards: Scores, advantages: Scores) -> Scores:
    return torch.where(rewards.isfinite() & ~tied(rewards), advantages, 0)


def decoupled_totals(rewards: torch.Tensor, weights: torch.Tensor | list[float]) -> Scores:
    """sum_k w_k z_k, z_k the z-score of reward k inside its group (NVIDIA's GDPO, first step).

    Args:
        rewards: (K, B, G); NaN marks a missing reward.
        weights: (K,), or (K, B) for weights of each picture's own.

    Returns:
        (B, G); NaN where every reward is missing.
    """
    shares = torch.as_tensor(weights, dtype=rewards.dtype, device=rewards.device)
    shares = shares.reshape(len(rewards), -1, 1)
    mean, std = finite_mean(rewards, -1), finite_std(rewards, -1)
    scored = rewards.isfinite()
    z = torch.where(scored & ~tied(rewards), (rewards - mean) / (std + EPS_DECOUPLED), 0)
    return torch.where(scored.any(0), (shares * z).sum(0), torch.nan)


def standardize(totals: Scores, batch: Scores | None = None) -> Scores:
    """(A - mean) / (std + 1e-4) over the whole batch (NVIDIA's GDPO, second step).

    Args:
        totals: (B, G), NaN where every reward is missing; those become 0.
        batch: (N, G), all groups of all processes and accumulation steps; None: `totals` alone.
    """
    everything = (totals if batch is None else batch).flatten()
    mean, std = finite_mean(everything, 0), finite_std(everything, 0)
    return ((totals - mean) / (std + EPS_DECOUPLED)).nan_to_num(0.0)


def decoupled_advantages(rewards: torch.Tensor, weights: torch.Tensor | list[float]) -> Scores:
    """Reward-decoupled normalisation (NVIDIA's GDPO) where the batch is (K, B, G) `rewards` alone.

    Each reward is z-scored inside its group, the weighted sum is standardised over the batch.

    Args:
        rewards: (K, B, G); NaN marks a missing reward.
        weights: (K,) or (K, B).

    Returns:
        (B, G); 0 where every reward is missing.
    """
    return standardize(decoupled_totals(rewards, weights))


ESTIMATORS = ("group", "decoupled", "mean_only", "batch_std")


def advantages_of(
    values: Scores,
    estimator: str = "group",
    batch: Scores | None = None,
    clip: float | None = None,
) -> Scores:
    """Advantages (B, G) of what the rewards of each candidate add up to.

    Args:
        values: (B, G): rewards R, or for "decoupled" the sums of `decoupled_totals`.
        estimator: one of ESTIMATORS.
        batch: (N, G), the values of all groups of all processes and accumulation steps, for
            "decoupled" and "batch_std"; None: `values` alone.
        clip: advantages are limited to +-clip; None does not limit them.
    """
    if estimator == "decoupled":
        advantages = standardize(values, batch)
    elif estimator == "batch_std":
        advantages = batch_std_advantages(values, batch)
    else:
        advantages = {"group": group_advantages, "mean_only": mean_only_advantages}[estimator](
            values
        )
    return advantages if clip is None else advantages.clamp(-clip, clip)


def permutation_within_groups(shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    """Random order of each group's candidates, (B, G), on the generator's device: the control
    experiment hands values to candidates in this order (`values.gather(-1, order)`).
    """
    return draw_rows(torch.rand, shape, rng).argsort(-1)
