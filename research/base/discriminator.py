"""A judge of what a restored picture looks like, for training alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from gdpo_sr.metrics.features import CHANNELS


class FeatureDiscriminator(nn.Module):
    """Judges pictures by their features (projected GAN, Sauer et al., 2021); hinge loss."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_head(channels, width) for channels in CHANNELS[1:])

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """A map of verdicts (N, 1, h, w) for each layer but the stem."""
        return [head(f) for head, f in zip(self.heads, features[1:], strict=True)]

    @staticmethod
    def loss(fake: list[torch.Tensor], real: list[torch.Tensor]) -> torch.Tensor:
        """Hinge, mean over layers."""
        parts = [
            F.relu(1 + f).mean() + F.relu(1 - r).mean() for f, r in zip(fake, real, strict=True)
        ]
        return torch.stack(parts).mean()


def _head(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(channels, width, 1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(width, width, 3, 1, 1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(width, 1, 1)),
    )
