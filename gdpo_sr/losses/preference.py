"""What the preference losses share: a margin, its logit, and the strength that keeps it useful."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from gdpo_sr.types import LossOutput

SMALLEST_RATIO = 4e-4
"""Of |S| to the size of the errors: at errors of 1 the paper's omega, 2 / 4e-4 = 5000."""


def preference_loss(
    margin: torch.Tensor, strength: float, weights: torch.Tensor | None = None
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

    The strength is 2 / (running mean of |S|). While the policy has hardly moved, |S| says nothing;
    it counts as at least 4e-4 times the reference's mean error, which is the paper's 5000 for
    errors of 1. Not in the paper.

    Args:
        decay: of the running mean, per loss; its start is corrected as Adam's is.

    Attributes:
        reduce: mean of a tensor over all processes; None: there is one.
    """

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = decay
        self.reduce: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._total = 0.0
        self._weight = 0.0

    def strength(self, margin: torch.Tensor, reference_error: torch.Tensor) -> float:
        """Take `margin` into the running mean; the strength for it.

        Args:
            margin: any shape.
            reference_error: any shape; its mean is the size of the errors.
        """
        found = torch.stack([margin.detach().abs().mean(), reference_error.detach().mean()])
        spread, size = (found if self.reduce is None else self.reduce(found)).tolist()
        self._total = self.decay * self._total + (1 - self.decay) * spread
        self._weight = self.decay * self._weight + (1 - self.decay)
        return 2 / max(self._total / self._weight, SMALLEST_RATIO * size, 1e-12)

    def state_dict(self) -> dict[str, float]:
        """The running mean."""
        return {"total": self._total, "weight": self._weight}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self._total, self._weight = state["total"], state["weight"]
