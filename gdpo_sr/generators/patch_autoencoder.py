"""PatchAutoencoder: a linear autoencoder over separate patches, with AutoencoderKL's interface.

A latent pixel holds the leading coefficients of one 4x4 RGB patch in an orthogonal basis, each
coefficient multiplied by its own gain. Encoding a decoded picture returns its latents exactly, so
re-encoding candidates costs no information. The basis and the gains are fitted to photographs by
`scripts/train_mini`.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """One strided convolution each way.

    Pictures are (N, 3, H, W) in [-1, 1], latents (N, latent_channels, H/p, W/p).

    Args:
        patch_size: side p of a patch in pixels; H and W must be multiples of it.
        latent_channels: coefficients kept of the 3 p^2 of a patch.
        scaling_factor: as in AutoencoderKL: latents are multiplied by it outside `encode` and
            divided before `decode`.
    """

    @register_to_config
    def __init__(
        self, patch_size: int = 4, latent_channels: int = 12, scaling_factor: float = 1.0
    ) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, latent_channels, patch_size, stride=patch_size)
        self.decoder = nn.ConvTranspose2d(latent_channels, 3, patch_size, stride=patch_size)

    @torch.no_grad()
    def set_basis(self, mean: torch.Tensor, basis: torch.Tensor, gains: torch.Tensor) -> None:
        """Use a fitted basis.

        Args:
            mean: colour (3,).
            basis: orthonormal columns (3 p^2, latent_channels).
            gains: (latent_channels,).
        """
        p, k = self.config.patch_size, self.config.latent_channels
        mean_patch = mean.repeat_interleave(p * p)
        self.encoder.weight.copy_((basis * gains).T.reshape(k, 3, p, p))
        self.encoder.bias.copy_(-(mean_patch @ basis) * gains)
        self.decoder.weight.copy_((basis / gains).T.reshape(k, 3, p, p))
        self.decoder.bias.copy_(mean)

    @apply_forward_hook
    def encode(self, x: torch.Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple:
        """Posterior over latents; its spread is zero, so `sample()` equals `mode()`."""
        mean = self.encoder(x)
        logvar = torch.full_like(mean, -30.0)
        posterior = DiagonalGaussianDistribution(torch.cat([mean, logvar], 1), deterministic=True)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(self, z: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple:
        """Pictures of latents (N, latent_channels, h, w); not clamped."""
        image = self.decoder(z)
        return DecoderOutput(sample=image) if return_dict else (image,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstruction of x."""
        return self.decode(self.encode(x).latent_dist.mode()).sample
