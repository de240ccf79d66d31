"""Diffusion-DPO on several pairs of a group, weighted in two levels (DP2O-SR, 2025)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field

from gdpo_sr.advantages import finite_std
from gdpo_sr.losses.base import GroupErrors, RewardValues, register_loss
from gdpo_sr.losses.preference import OMEGA_TEXT, OmegaOption, PreferenceLoss
from gdpo_sr.option_group import OptionGroup


class Pairs(NamedTuple):
    """Winners and losers, indices (B, P), and the pairs' weights (B, P), 0 where there is none."""

    winner: torch.Tensor
    loser: torch.Tensor
    weight: torch.Tensor


def weighted_pairs(
    values: torch.Tensor, fraction: float = 0.25, mean_spread: torch.Tensor | None = None
) -> Pairs:
    """The N best against the N worst, N = max(1, round(fraction G)), so P = N^2 pairs a group.

    weight = (|R_w - R_l| + 1 - mean gap of the group's pairs) * (std of the group + 1 - mean std).

    Args:
        values: R (B, G), higher is better, NaN where one is missing.
        fraction: N / G, at most 1/2.
        mean_spread: mean std over all groups of the batch; None: over these.
    """
    count = max(1, round(fraction * values.shape[-1]))
    high = values.nan_to_num(-torch.inf).topk(count, -1)
    low = values.nan_to_num(torch.inf).topk(count, -1, largest=False)
    gap = (high.values[..., :, None] - low.values[..., None, :]).flatten(1)
    real = gap.isfinite() & (gap > 0)
    gap = torch.where(real, gap, 0)
    mean_gap = gap.sum(-1, keepdim=True) / real.sum(-1, keepdim=True).clamp(min=1)
    spread = finite_std(values, -1)
    mean_spread = spread.mean() if mean_spread is None else mean_spread
    weight = (gap + 1 - mean_gap) * (spread + 1 - mean_spread)
    return Pairs(
        high.indices.repeat_interleave(count, -1),
        low.indices.repeat(1, count),
        torch.where(real, weight, 0).clamp(min=0),
    )


def pair_margins(
    policy_error: torch.Tensor, reference_error: torch.Tensor, pairs: Pairs
) -> torch.Tensor:
    """(l_w - lref_w) - (l_l - lref_l) of every pair, (B, P); errors (B, G)."""
    change = policy_error - reference_error
    return change.gather(-1, pairs.winner) - change.gather(-1, pairs.loser)


class MultiPairDPOLossOptions(OptionGroup):
    """The best few against the worst few, with hierarchical weights (DP2O-SR)."""

    type: Literal["multi_pair_dpo"] = Field(description="Loss by its registered name.")
    omega: OmegaOption = Field(5000.0, description=OMEGA_TEXT)
    fraction: float = Field(
        0.25, gt=0, le=0.5, description="Share of a group that wins, and that loses."
    )


@register_loss(MultiPairDPOLossOptions)
class MultiPairDPOLoss(PreferenceLoss):
    """Several pairs with hierarchical weights (`weighted_pairs`); pairs are of pictures."""

    same_noise = True
    by_element = False
    needs_values = True

    def __init__(self, omega: float | Literal["auto"] = 5000.0, fraction: float = 0.25) -> None:
        super().__init__(omega)
        self.fraction = fraction

    def margin(
        self, errors: GroupErrors, advantages: torch.Tensor, values: RewardValues | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Margin and weight of every pair."""
        if values is None:
            raise ValueError("multi_pair_dpo needs the values that the advantages are made of")
        pairs = weighted_pairs(values.values, self.fraction, values.mean_spread)
        return pair_margins(errors.policy, errors.reference, pairs), pairs.weight
