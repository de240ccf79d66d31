"""Losses of pictures from numbers of their latent elements."""

from __future__ import annotations

import torch


def mean_over_elements(values: torch.Tensor) -> torch.Tensor:
    """(B, h, w) -> (B,), mean over a picture's latent elements; (B,) stays as it is."""
    return values.flatten(1).mean(-1) if values.ndim > 1 else values
