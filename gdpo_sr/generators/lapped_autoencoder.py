"""LappedAutoencoder: a linear autoencoder over overlapping blocks, with AutoencoderKL's interface.

A latent pixel holds coefficients of a lapped orthogonal transform (Malvar and Staelin, 1989): 8x8
kernels at a hop of 4 pixels that fade out towards their ends, so that an error in one latent
pixel shows no block. Kernels are orthogonal to each other and to their shifted copies, and the
borders are mirrored; so encoding a decoded picture returns its latents, and re-encoding
candidates costs no information. `research/base` chooses the coefficients.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from gdpo_sr.generators.family import AutoencoderFamily
from gdpo_sr.generators.saved import SavedNetwork, follows_offloading, keeps_config


class Point(NamedTuple):
    """A posterior without spread, with the interface of diffusers' Gaussian one."""

    mean: torch.Tensor

    @property
    def std(self) -> torch.Tensor:
        """Zeros."""
        return torch.zeros_like(self.mean)

    def mode(self) -> torch.Tensor:
        """The mean."""
        return self.mean

    def sample(self, rng: torch.Generator | None = None) -> torch.Tensor:
        """The mean."""
        return self.mean


class Encoded(NamedTuple):
    """What `encode` of a diffusers' autoencoder returns."""

    latent_dist: Point


class Decoded(NamedTuple):
    """What `decode` of a diffusers' autoencoder returns: `sample` (N, 3, H, W)."""

    sample: torch.Tensor


class LappedAutoencoder(SavedNetwork):
    """One strided convolution each way.

    Pictures are (N, 3, H, W) in [-1, 1], latents (N, latent_channels, H/p, W/p).

    Args:
        patch_size: hop p in pixels, even; H and W must be multiples of it. Kernels are 2p x 2p.
        latent_channels: coefficients kept of the 3 p^2 of a block.
        scaling_factor: as in AutoencoderKL: latents are multiplied by it outside `encode` and
            divided before `decode`.
    """

    @keeps_config
    def __init__(
        self, patch_size: int = 4, latent_channels: int = 12, scaling_factor: float = 1.0
    ) -> None:
        super().__init__()
        p, k = patch_size, latent_channels
        self.encoder = nn.Conv2d(3, k, 2 * p, stride=p)
        self.decoder = nn.ConvTranspose2d(k, 3, 2 * p, stride=p)
        self.register_buffer("parity", torch.ones(k, 2))

    @torch.no_grad()
    def set_kernels(self, mean: torch.Tensor, kernels: torch.Tensor, gains: torch.Tensor) -> None:
        """Use chosen kernels.

        Args:
            mean: colour (3,).
            kernels: orthonormal (latent_channels, 3, 2p, 2p), each even or odd down and across.
            gains: factor of each coefficient, (latent_channels,).
        """
        scale = gains.view(-1, 1, 1, 1)
        self.encoder.weight.copy_(kernels * scale)
        self.encoder.bias.copy_(-torch.einsum("kcij,c->k", kernels, mean) * gains)
        self.decoder.weight.copy_(kernels / scale)
        self.decoder.bias.copy_(mean)
        for axis, dim in enumerate((2, 3)):
            self.parity[:, axis] = (kernels * kernels.flip(dim)).sum(dim=(1, 2, 3)).sign()

    @follows_offloading
    def encode(self, x: torch.Tensor) -> Encoded:
        """Posterior over latents; its spread is zero, so `sample()` equals `mode()`."""
        return Encoded(Point(self.encoder(mirrored(x, self.config.patch_size // 2))))

    @follows_offloading
    def decode(self, z: torch.Tensor) -> Decoded:
        """Pictures of latents (N, latent_channels, h, w); not clamped."""
        border = 3 * self.config.patch_size // 2
        image = self.decoder(self._with_mirrored_blocks(z))
        return Decoded(image[..., border:-border, border:-border])

    def _with_mirrored_blocks(self, z: torch.Tensor) -> torch.Tensor:
        """One more latent pixel on each side: the block that a mirrored picture has there."""
        down, across = self.parity.to(z.dtype).view(1, -1, 2, 1, 1).unbind(2)
        z = torch.cat([z[..., :1, :] * down, z, z[..., -1:, :] * down], 2)
        return torch.cat([z[..., :1] * across, z, z[..., -1:] * across], 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstruction of x."""
        return self.decode(self.encode(x).latent_dist.mode()).sample


def mirrored(x: torch.Tensor, border: int) -> torch.Tensor:
    """Pictures continued by `border` mirrored pixels on each side, the edge pixel repeated."""
    x = torch.cat([x[..., :border, :].flip(2), x, x[..., -border:, :].flip(2)], 2)
    return torch.cat([x[..., :border].flip(3), x, x[..., -border:].flip(3)], 3)


class LappedFamily(AutoencoderFamily):
    """Its encoder is one convolution."""

    lora_targets = "encoder"

    @property
    def network(self) -> type[nn.Module]:
        return LappedAutoencoder

    def pixels_per_latent(self, network: nn.Module) -> int:
        return network.config.patch_size
