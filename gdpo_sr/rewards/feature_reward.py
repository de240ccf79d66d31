"""Closeness to the HR picture in the features of a network, as maps."""

from __future__ import annotations

import torch

from gdpo_sr.metrics import create_metric
from gdpo_sr.metrics.feature_maps import FeatureMap
from gdpo_sr.rewards.base import Kind, check_options, check_shapes


class FeatureReward:
    """`texture_energy` or `feature_distance` (`gdpo_sr.metrics.feature_maps`), the sign turned.

    Args:
        metric_name: which of the two.
        kind: "fidelity" or "perception".
        weight: share among the rewards of its kind, not negative.
        device: where it is computed.

    Raises:
        MetricError: unknown name.
        OptionError: `weight` or `kind` is out of range.
    """

    gives_maps = True

    def __init__(
        self, metric_name: str, kind: Kind, weight: float = 1.0, device: str = "cpu"
    ) -> None:
        check_options(metric_name, kind, weight)
        self.name, self.kind, self.weight = metric_name, kind, weight
        self.metric = create_metric(metric_name, device)
        self._measure = FeatureMap(metric_name, device)

    def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Maps (B, G, h, w), higher is better, with a graph if the candidates have one; arguments
        as `Reward`.
        """
        check_shapes(self.name, candidates, hr)
        return -self._measure.maps(candidates, hr).to(candidates.device)
