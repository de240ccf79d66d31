"""Two judges of what a restored picture looks like, for training alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from features import CHANNELS
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


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


class PixelDiscriminator(nn.Module):
    """Judges patches of a picture beside its enlarged LR picture; logistic loss with R1."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        w = width
        self.first = nn.Conv2d(24, w, 3, 1, 1)
        self.down1 = nn.Conv2d(w, 2 * w, 4, 2, 1)
        self.mid = nn.Conv2d(2 * w, 2 * w, 3, 1, 1)
        self.down2 = nn.Conv2d(2 * w, 3 * w, 4, 2, 1)
        self.last = nn.Conv2d(3 * w, 3 * w, 3, 1, 1)
        self.fine, self.coarse = nn.Conv2d(2 * w, 1, 3, 1, 1), nn.Conv2d(3 * w, 1, 3, 1, 1)

    def forward(self, images: torch.Tensor, enlarged: torch.Tensor) -> list[torch.Tensor]:
        """Maps of verdicts (N, 1, H/4, W/4) and (N, 1, H/8, W/8)."""
        x = F.pixel_unshuffle(torch.cat([images, enlarged], 1), 2)
        x = F.leaky_relu(self.first(x), 0.2)
        x = F.leaky_relu(self.down1(x), 0.2)
        x = F.leaky_relu(self.mid(x), 0.2)
        fine = self.fine(x)
        x = F.leaky_relu(self.down2(x), 0.2)
        x = F.leaky_relu(self.last(x), 0.2)
        return [fine, self.coarse(x)]

    @staticmethod
    def loss(fake: list[torch.Tensor], real: list[torch.Tensor]) -> torch.Tensor:
        """Logistic, mean over the two scales."""
        parts = [
            F.softplus(f).mean() + F.softplus(-r).mean() for f, r in zip(fake, real, strict=True)
        ]
        return torch.stack(parts).mean()
