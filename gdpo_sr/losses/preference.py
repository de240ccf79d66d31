"""What the preference losses share: a margin, its logit, and the strength that keeps it useful."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from gdpo_sr.types import LossOutput

SMALLEST_RATIO = 4e-4
"""Of |S| to the size of the errors: at errors of 1 the paper's omega, 2 / 4e-4 = 5000."""
SMALLEST_SPREAD = 1e-12
"""Of |S|, where every error is 0: a strength must be finite."""


def preference_loss(
    margin: torch.Tensor, strength: float | torch.Tensor, weights: torch.Tensor | None = None
) -> LossOutput:
    """mean[-w log sigmoid(-strength / 2 * margin)].

    Args:
        margin: any shape; negative where the policy moved towards what is preferred.
        strength: omega or beta.
        weights: w of the margin's shape, not negative; None: 1.

    Returns:
        scalar loss; logs: `logit`, `logit_abs`, `won` (share with a negative margin).
    """
    logit = -0.5 * strength * margin
    losses = -F.logsigmoid(logit)
    detached = logit.detach()
    logs = {
        "logit": detached.mean(),
        "logit_abs": detached.abs().mean(),
        "won": (detached > 0).float().mean(),
    }
    return LossOutput((losses if weights is None else weights * losses).mean(), logs)


class LogitScale:
    """`omega: auto`: the strength at which the mean |logit| stays near 1, whatever the latent size.

    The strength is 2 / (running mean of |S|). Where the policy has hardly moved, |S| says nothing;
    it counts as at least 4e-4 times the mean size of the reference's errors, which is the paper's
    5000 for errors of 1. Errors may have any sign: from the LR picture an error is what an input
    gains over its group, and their plain mean is about 0. Not in the paper.

    Args:
        decay: of the running mean, per loss; its start is corrected as Adam's is.

    Attributes:
        reduce: mean of a tensor over all processes; None: there is one.
    """

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = decay
        self.reduce: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._total: torch.Tensor | float = 0.0
        self._weight: torch.Tensor | float = 0.0

    def strength(self, margin: torch.Tensor, reference_error: torch.Tensor) -> torch.Tensor:
        """Take the groups of one loss into the running mean; the strength for them, scalar.

        Groups that all tie, errors included, say nothing and are left out of the mean.

        Args:
            margin: S, any shape.
            reference_error: of the same groups, any shape.
        """
        sizes = [margin.detach().abs().mean(), reference_error.detach().abs().mean()]
        found = torch.stack(sizes).float()
        spread, size = found if self.reduce is None else self.reduce(found)
        spread = torch.maximum(spread, SMALLEST_RATIO * size)
        share = (1 - self.decay) * (spread > 0)
        self._total = (1 - share) * self._total + share * spread
        self._weight = (1 - share) * self._weight + share
        return 2 * self._weight / self._total.clamp(min=SMALLEST_SPREAD)

    def state_dict(self) -> dict[str, float]:
        """The running mean."""
        return {"total": float(self._total), "weight": float(self._weight)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self._total, self._weight = state["total"], state["weight"]
