"""What was recorded in place of MUSIQ and MANIQA, whose weights could not be had."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch


class StandIn:
    """A reward made of one function of pictures (N, 3, H, W) in [0, 1]."""

    kind = "perception"
    weight = 1.0
    metric = SimpleNamespace(lower_better=False)

    def __init__(self, name: str, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.name = name
        self.function = function

    def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        return self.function(candidates.flatten(0, 1)).unflatten(0, candidates.shape[:2])


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """What was recorded in place of MUSIQ."""
    dx, dy = images.diff(dim=-1).abs(), images.diff(dim=-2).abs()
    return 100 * (dx.flatten(1).mean(1) + dy.flatten(1).mean(1))


def spread(images: torch.Tensor) -> torch.Tensor:
    """What was recorded in place of MANIQA."""
    return images.flatten(1).std(1, correction=0)
