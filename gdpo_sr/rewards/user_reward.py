"""A function of the user's as a reward, its contract checked at every call."""

from __future__ import annotations

import logging

import torch

from gdpo_sr.rewards.base import Kind, check_options, check_shapes
from gdpo_sr.rewards.registry import RewardFunction, said, users_code
from gdpo_sr.rewards.scoring import check_scores
from gdpo_sr.types import GDPOSRError, MetricError

_LOGGER = logging.getLogger("gdpo_sr")


class FunctionMetric:
    """A reward function scoring single pictures, as validation does.

    Attributes:
        lower_better: direction of the scores.
    """

    def __init__(self, name: str, function: RewardFunction, lower_better: bool) -> None:
        self.name = name
        self.lower_better = lower_better
        self._function = function

    def group(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Scores (B, G) or (B, G, h, w) as the function gives them; shapes as `UserReward`.

        Raises:
            MetricError: not a finite floating-point tensor of one of the two shapes.
        """
        with users_code():
            scores = self._function(candidates, hr)
        if not isinstance(scores, torch.Tensor) or not scores.is_floating_point():
            got = scores.dtype if isinstance(scores, torch.Tensor) else type(scores).__name__
            raise MetricError(
                f"reward '{self.name}' returned {got}; it must return a floating-point tensor"
            )
        check_scores(self.name, scores, candidates)
        scores = scores.float()  # what overflows here is not finite
        if not scores.isfinite().all():
            b, g, *place = (~scores.isfinite()).nonzero()[0].tolist()
            value = float(scores[(b, g, *place)])
            raise MetricError(
                f"reward '{self.name}' returned {value} for candidate {g} of image "
                f"{b}; every score must be finite"
            )
        return scores

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        """Scores (N,) of images (N, 3, H, W) against references of the same shape, in [0, 1]; NaN
        where the function raises.
        """
        try:
            scores = self.group(images[:, None], references)
        except GDPOSRError:
            raise
        except Exception as error:
            _LOGGER.warning("reward '%s' failed in a validation (%s)", self.name, said(error))
            return images.new_full((len(images),), torch.nan)
        return scores[:, 0].reshape(len(images), -1).mean(1)


class UserReward:
    """`function(candidates, hr) -> scores`, higher is better unless `lower_better`.

    Args:
        function: gets candidates (B, G, 3, H, W) and hr (B, 3, H, W), RGB in [0, 1], and returns
            finite floating-point scores (B, G), or maps of them (B, G, h, w). An attribute
            `gives_maps = True` of a class keeps a fidelity reward from being called on cut-out
            cells: they get their parts of the map.
        name: for logs and error messages.
        kind: "fidelity" or "perception".
        weight: share among the rewards of its kind, not negative.
        lower_better: direction of the scores.

    Raises:
        OptionError: `weight` or `kind` is out of range.
    """

    def __init__(
        self,
        function: RewardFunction,
        name: str,
        kind: Kind,
        weight: float = 1.0,
        lower_better: bool = False,
    ) -> None:
        check_options(name, kind, weight)
        self.name, self.kind, self.weight = name, kind, weight
        self.gives_maps = bool(getattr(function, "gives_maps", False))
        self.metric = FunctionMetric(name, function, lower_better)

    def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Scores (B, G) or (B, G, h, w) float32, higher is better; arguments as `function`."""
        check_shapes(self.name, candidates, hr)
        scores = self.metric.group(candidates, hr)
        return -scores if self.metric.lower_better else scores
