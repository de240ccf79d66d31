"""What a reward is: a callable that scores groups of candidates, higher being better."""

from __future__ import annotations

from typing import Literal, Protocol

import torch

from gdpo_sr.types import MetricError, OptionError

Kind = Literal["fidelity", "perception"]


class Reward(Protocol):
    """Anything with these attributes can be a reward.

    Attributes:
        name: for logs and error messages.
        weight: share among the rewards of its kind, not negative.
        kind: "fidelity" (full reference, counts in smooth areas) or "perception" (counts in
            textured ones).
        gives_maps: whether its scores are maps; a cell then gets its part of the whole picture's.
    """

    name: str
    weight: float
    kind: Kind
    gives_maps: bool

    def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Scores (B, G), or maps of them (B, G, h, w), of `candidates` (B, G, 3, H, W) against `hr`
        (B, 3, H, W), in [0, 1].
        """
        ...


def check_options(name: str, kind: str, weight: float) -> None:
    """Raise OptionError unless `kind` is one of the two and `weight` is not negative."""
    if kind not in ("fidelity", "perception"):
        raise OptionError(f"reward '{name}': kind '{kind}' is not fidelity or perception")
    if weight < 0:
        raise OptionError(f"reward '{name}': weight {weight} is negative; give 0 or more")


def check_shapes(name: str, candidates: torch.Tensor, hr: torch.Tensor) -> None:
    """Raise MetricError unless `candidates` is (B, G, 3, H, W) and `hr` the (B, 3, H, W) that
    belongs to it.
    """
    expected = (candidates.shape[0], *candidates.shape[2:])
    if candidates.ndim != 5 or candidates.shape[2] != 3 or tuple(hr.shape) != expected:
        got = f"{tuple(candidates.shape)} and {tuple(hr.shape)}"
        raise MetricError(f"reward '{name}' needs (B, G, 3, H, W) and (B, 3, H, W), got {got}")
