"""The losses of stage 2 by the name that `train.loss.type` gives them, all on the same rollouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from gdpo_sr.losses.diffusion_dpo import pair_margin
from gdpo_sr.losses.gdpo_loss import preference_margin
from gdpo_sr.losses.grpo import grpo_loss
from gdpo_sr.losses.multi_pair_dpo import pair_margins, weighted_pairs
from gdpo_sr.losses.preference import LogitScale, preference_loss
from gdpo_sr.losses.regression import (
    best_error,
    reward_weighted_loss,
    reward_weights,
    sft_best_loss,
    weighted_error,
)
from gdpo_sr.registry import Registry
from gdpo_sr.types import LossOutput

LOSSES = Registry("train.loss.type")
Strength = float | Literal["auto"]


@dataclass
class ErrorSignal:
    """What a loss of prediction errors looks at.

    Attributes:
        policy, reference: errors (B, G), or (B, G, h, w) per latent element; `policy` has a graph.
        advantages: of the errors' shape.
        values: (B, G), what the advantages were made of, NaN where scores are missing.
        mean_spread: mean over the whole batch of the std of `values` in a group.
    """

    policy: torch.Tensor
    reference: torch.Tensor
    advantages: torch.Tensor
    values: torch.Tensor
    mean_spread: torch.Tensor


@dataclass
class ActionSignal:
    """What a policy-gradient loss looks at.

    Attributes:
        actions, old_mean: (B, G, c, h, w), what the policy that sampled did and meant.
        mean: (B, G, c, h, w), what the policy means now, with a graph.
        reference_mean: (B, G, c, h, w), what the reference means, or None.
        advantages: (B, G), or (B, G, h, w) per latent element.
    """

    actions: torch.Tensor
    old_mean: torch.Tensor
    mean: torch.Tensor
    reference_mean: torch.Tensor | None
    advantages: torch.Tensor


class GroupLoss(Protocol):
    """A loss of stage 2; it is called with an ErrorSignal, `grpo` with an ActionSignal.

    Attributes:
        same_noise: candidates of one group are compared on the same noise.
        imitates: errors are those of all inputs against each candidate, which are bounded below.
        scale: state of an automatic strength, or None.
        margin: what alone decides a picture's part of the loss, (B,): linear in the policy's errors
            of that picture. None where there is no such number.
    """

    same_noise: bool
    imitates: bool
    scale: LogitScale | None
    margin: Callable[[ErrorSignal], torch.Tensor] | None

    def __call__(self, signal: Any) -> LossOutput:
        """Loss with a graph and what to log."""
        ...


class _Preference:
    """A preference loss whose strength is a number or kept by `LogitScale`."""

    same_noise = False
    imitates = False
    margin = None

    def __init__(self, strength: Strength) -> None:
        self.strength = strength
        self.scale = LogitScale() if strength == "auto" else None

    def _loss(
        self, margin: torch.Tensor, signal: ErrorSignal, weights: torch.Tensor | None = None
    ) -> LossOutput:
        if self.scale is None:
            return preference_loss(margin, float(self.strength), weights)
        strength = self.scale.strength(margin, signal.reference)
        output = preference_loss(margin, strength, weights)
        return LossOutput(output.loss, {**output.logs, "omega": strength})


@LOSSES.register("gdpo")
class GDPO(_Preference):
    """All candidates, each by its advantage (`gdpo_loss`); advantages may belong to regions."""

    def __init__(self, omega: Strength = 5000.0) -> None:
        super().__init__(omega)

    def margin(self, signal: ErrorSignal) -> torch.Tensor:
        """S of every picture."""
        return preference_margin(signal.policy, signal.reference, signal.advantages)

    def __call__(self, signal: ErrorSignal) -> LossOutput:
        """Arguments and result as `GroupLoss`."""
        return self._loss(self.margin(signal), signal)


@LOSSES.register("diffusion_dpo")
class DiffusionDPO(_Preference):
    """Best against worst (`diffusion_dpo_loss`)."""

    same_noise = True

    def __init__(self, beta: Strength = 5000.0) -> None:
        super().__init__(beta)

    def margin(self, signal: ErrorSignal) -> torch.Tensor:
        """Difference of winner and loser of every picture."""
        return pair_margin(signal.policy, signal.reference, signal.advantages)

    def __call__(self, signal: ErrorSignal) -> LossOutput:
        """Arguments and result as `GroupLoss`."""
        return self._loss(self.margin(signal), signal)


@LOSSES.register("multi_pair_dpo")
class MultiPairDPO(_Preference):
    """Several pairs with hierarchical weights (`multi_pair_dpo_loss`)."""

    same_noise = True

    def __init__(self, beta: Strength = 5000.0, fraction: float = 0.25) -> None:
        super().__init__(beta)
        self.fraction = fraction

    def __call__(self, signal: ErrorSignal) -> LossOutput:
        """Arguments and result as `GroupLoss`."""
        pairs = weighted_pairs(signal.values, self.fraction, signal.mean_spread)
        margins = pair_margins(signal.policy, signal.reference, pairs)
        return self._loss(margins, signal, pairs.weight)


@LOSSES.register("grpo")
class GRPO:
    """Gaussian policy on the one-step output (`grpo_loss`); the injected noise is its state."""

    same_noise = False
    imitates = False
    scale = None
    margin = None

    def __init__(
        self,
        sigma: float = 0.1,
        clip: float = 1e-4,
        advantage_clip: float = 5.0,
        kl_weight: float = 0.0,
    ) -> None:
        self.sigma, self.clip = sigma, clip
        self.advantage_clip, self.kl_weight = advantage_clip, kl_weight

    def __call__(self, signal: ActionSignal) -> LossOutput:
        """Arguments and result as `GroupLoss`."""
        return grpo_loss(
            signal.actions,
            signal.old_mean,
            signal.mean,
            signal.advantages,
            self.sigma,
            self.clip,
            self.advantage_clip,
            self.kl_weight,
            signal.reference_mean,
        )


@LOSSES.register("reward_weighted")
class RewardWeighted:
    """Imitation weighted by advantage (`reward_weighted_loss`)."""

    same_noise = False
    imitates = True
    scale = None

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def margin(self, signal: ErrorSignal) -> torch.Tensor:
        """Weighted error of every picture."""
        return weighted_error(signal.policy, reward_weights(signal.advantages, self.temperature))

    def __call__(self, signal: ErrorSignal) -> LossOutput:
        """Arguments and result as `GroupLoss`."""
        return reward_weighted_loss(signal.policy, signal.advantages, self.temperature)


@LOSSES.register("sft_best")
class SFTBest:
    """Imitation of the best candidate (`sft_best_loss`)."""

    same_noise = False
    imitates = True
    scale = None

    def margin(self, signal: ErrorSignal) -> torch.Tensor:
        """Error of the best candidate of every picture."""
        return best_error(signal.policy, signal.advantages)

    def __call__(self, signal: ErrorSignal) -> LossOutput:
        """Arguments and result as `GroupLoss`."""
        return sft_best_loss(signal.policy, signal.advantages)
