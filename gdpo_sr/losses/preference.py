"""What the preference losses share: a margin, its logit, and the omega that keeps it useful."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Discriminator, Field, Tag

from gdpo_sr.losses.base import GroupErrors, GroupLoss, RewardValues
from gdpo_sr.types import LossOutput

OmegaOption = Annotated[
    Annotated[float, Field(gt=0), Tag("number")] | Annotated[Literal["auto"], Tag("word")],
    Discriminator(lambda value: "word" if value == "auto" else "number"),
]
"""Factor of a logit, or `auto`: kept so that the mean absolute logit stays near 1."""
OMEGA_TEXT = "Factor of the logit; the paper: 5000; auto: mean |logit| near 1."

SMALLEST_RATIO = 4e-4
"""Of |S| to the size of the errors: at errors of 1 the paper's omega, 2 / 4e-4 = 5000."""
SMALLEST_SPREAD = 1e-12
"""Of |S|, where every error is 0: omega must be finite."""


def preference_loss(
    margin: torch.Tensor, omega: float | torch.Tensor, weights: torch.Tensor | None = None
) -> LossOutput:
    """mean[-w log sigmoid(-omega / 2 * margin)].

    Args:
        margin: any shape; negative where the policy moved towards what is preferred.
        omega: strength of the preference.
        weights: w of the margin's shape, not negative; None: 1.

    Returns:
        scalar loss; logs: `logit`, `logit_abs`, `won` (share with a negative margin).
    """
    logit = -0.5 * omega * margin
    losses = -F.logsigmoid(logit)
    detached = logit.detach()
    logs = {
        "logit": detached.mean(),
        "logit_abs": detached.abs().mean(),
        "won": (detached > 0).float().mean(),
    }
    return LossOutput((losses if weights is None else weights * losses).mean(), logs)


class OmegaScale:
    """`omega: auto`: the omega at which the mean |logit| stays near 1, whatever the latent size.

    It is 2 / (running mean of |S|). Where the policy has hardly moved, |S| says nothing;
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

    def omega(self, margin: torch.Tensor, reference_error: torch.Tensor) -> torch.Tensor:
        """Take the groups of one loss into the running mean; omega for them, scalar.

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
        self._total, self._weight = float(state["total"]), float(state["weight"])


class PreferenceLoss(GroupLoss):
    """A loss of margins whose omega is a number, or kept by `OmegaScale`.

    Args:
        omega: strength of the preference, or "auto".
    """

    def __init__(self, omega: float | Literal["auto"] = 5000.0) -> None:
        self.fixed = None if omega == "auto" else float(omega)
        self.scale = OmegaScale()

    def margin(
        self, errors: GroupErrors, advantages: torch.Tensor, values: RewardValues | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Margins, negative where the policy moved towards what is preferred, and their weights
        (None: 1).
        """
        raise NotImplementedError

    def __call__(
        self, errors: GroupErrors, advantages: torch.Tensor, values: RewardValues | None = None
    ) -> LossOutput:
        """Arguments and result as `GroupLoss`; logs omega too."""
        margin, weights = self.margin(errors, advantages, values)
        omega = self.fixed or self.scale.omega(margin, errors.reference)
        output = preference_loss(margin, omega, weights)
        return LossOutput(output.loss, {**output.logs, "omega": torch.as_tensor(omega)})

    def state_dict(self) -> dict[str, float]:
        """The running mean of an automatic omega."""
        return self.scale.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned; nothing, of a run whose omega was fixed."""
        if state:
            self.scale.load_state_dict(state)
