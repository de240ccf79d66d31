"""What the losses of stage 2 have in common: what they are given, and how one is found by name.

A loss is one file in this folder: its function, its options, its class with `register_loss`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar, get_args

import torch

from gdpo_sr.option_group import OptionGroup
from gdpo_sr.registry import Registry
from gdpo_sr.types import LossOutput


class GroupErrors(NamedTuple):
    """Prediction errors on the same noisy latents, (B, G) or (B, G, h, w) per latent element.

    Attributes:
        policy: l, with a graph.
        reference: lref.
        drift: mean squared distance of the policy's output from the reference's, or None; (B, 1)
            where all candidates share it.
    """

    policy: torch.Tensor
    reference: torch.Tensor
    drift: torch.Tensor | None = None


class RewardValues(NamedTuple):
    """What the advantages were made of.

    Attributes:
        values: R (B, G), higher is better, NaN where scores are missing.
        mean_spread: mean over the whole batch of the std of `values` in a group, scalar.
    """

    values: torch.Tensor
    mean_spread: torch.Tensor


class GroupLoss:
    """A loss of stage 2. A subclass takes its options as keyword arguments.

    Attributes:
        same_noise: candidates of one group are compared on the same noise.
        imitates: errors are those of all inputs against each candidate, which are bounded below.
        by_element: every latent element may have advantages of its own.
        needs_values: it is given `RewardValues`.
        acts: candidates are the actions of a Gaussian policy.
        action_sigma: its standard deviation.
        needs_drift: `GroupErrors.drift` is needed.
        through_rewards: its `RewardValues` are of the policy's restorations, with a graph.
    """

    same_noise = False
    imitates = False
    by_element = True
    needs_values = False
    acts = False
    action_sigma = 0.0
    needs_drift = False
    through_rewards = False

    def __call__(
        self, errors: GroupErrors, advantages: torch.Tensor, values: RewardValues | None = None
    ) -> LossOutput:
        """Loss with a graph, and what to log.

        Args:
            errors: of policy and reference.
            advantages: (B, G), mean 0 per row, or (B, G, h, w) as the errors.
            values: if `needs_values`.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, float]:
        """What the loss remembers from update to update."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""


LOSSES = Registry("train.loss.type")
OPTIONS: dict[str, type[OptionGroup]] = {}
"""Option groups by the name of their loss; the schema's union of them is made of this."""
L = TypeVar("L", bound=type[GroupLoss])


def register_loss(options: type[OptionGroup]) -> Callable[[L], L]:
    """Decorator that files a loss under the name that the field `type` of its options admits."""
    [name] = get_args(options.model_fields["type"].annotation)
    OPTIONS[name] = options
    return LOSSES.register(name)


def mean_over_elements(values: torch.Tensor) -> torch.Tensor:
    """(B, h, w) -> (B,), mean over a picture's latent elements; (B,) stays as it is."""
    return values.flatten(1).mean(-1) if values.ndim > 1 else values
