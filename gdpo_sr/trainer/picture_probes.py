"""Signs of reward hacking in pictures: never rewarded, and without a reference."""

from __future__ import annotations

import torch
import torch.nn.functional as F

EDGE = 0.1
"""Gradient, in grey levels of [0, 1] per pixel, from which a pixel counts as an edge."""


def grey(images: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) -> (N, H, W), mean of the channels."""
    return images.float().mean(1)


def edge_density(images: torch.Tensor) -> torch.Tensor:
    """Share of pixels (N,) of images (N, 3, H, W) in [0, 1] whose central difference is an edge."""
    x = F.pad(grey(images)[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    dx = (x[:, 1:-1, 2:] - x[:, 1:-1, :-2]) / 2
    dy = (x[:, 2:, 1:-1] - x[:, :-2, 1:-1]) / 2
    return ((dx.square() + dy.square()).sqrt() > EDGE).float().mean(dim=(1, 2))


def high_frequency_energy(images: torch.Tensor) -> torch.Tensor:
    """Mean power (N,) above half the Nyquist frequency, in squared grey levels."""
    x = grey(images)
    height, width = x.shape[-2:]
    spectrum = torch.fft.fft2(x, norm="forward").abs().square()
    fy = torch.fft.fftfreq(height, device=x.device)[:, None]
    fx = torch.fft.fftfreq(width, device=x.device)
    return (spectrum * ((fx.square() + fy.square()).sqrt() > 0.25)).sum(dim=(1, 2))


def grid_energy(images: torch.Tensor, period: int) -> torch.Tensor:
    """Unevenness (N,) of the gradient over the phases of a grid of `period` pixels: std / mean.

    Differences between neighbours are averaged by their position inside a cell; without a grid all
    positions are alike. The mean of both directions; 0 for a period of 1.
    """
    x = grey(images)
    return (_unevenness(x, period) + _unevenness(x.mT, period)) / 2


def _unevenness(x: torch.Tensor, period: int) -> torch.Tensor:
    steps = (x[..., 1:] - x[..., :-1]).abs().mean(1)
    whole = steps[:, : steps.shape[1] // period * period]
    phases = whole.unflatten(1, (-1, period)).mean(1)
    return phases.std(1, correction=0) / phases.mean(1).clamp(min=1e-6)


def probe(images: torch.Tensor, period: int) -> dict[str, float]:
    """The three probes of one picture (3, H, W) in [0, 1]; `period` is the latent grid's."""
    batch = images[None]
    return {
        "edge_density": float(edge_density(batch)),
        "high_frequency": float(high_frequency_energy(batch)),
        "latent_grid": float(grid_energy(batch, period)),
    }
