"""Fit the basis and gains of the embedded base's autoencoder to photographs."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gdpo_sr.generators.patch_autoencoder import PatchAutoencoder

DETAIL_ERROR, MEAN_ERROR = 1.15, 2.3
"""Wanted RMS difference between LR and HR latents, per channel of detail and of patch means (the
three leading ones).

Relative to a latent scaled by 0.82, the noise injected at t = 250 has a standard deviation of 0.70:
of the size of the detail that
is missing, so that it can stand for it, and small against what the LR picture tells about the
means."""


def fit_basis(
    crops: torch.Tensor, channels: int, patch: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean colour (3,) and leading principal components (3 patch^2, channels) of crops (N, 3, H, W)
    in [-1, 1].
    """
    mean = crops.mean(dim=(0, 2, 3))
    patches = F.unfold(crops - mean[:, None, None], patch, stride=patch)
    flat = patches.transpose(1, 2).reshape(-1, 3 * patch * patch).double()
    _, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
    return mean, vectors.flip(1)[:, :channels].float()


@torch.no_grad()
def fit_autoencoder(vae: PatchAutoencoder, hr: torch.Tensor, lr: torch.Tensor) -> None:
    """Set the basis from hr and the gains from what lr lost of it; both (N, 3, H, W) in [-1, 1], lr
    resized to hr.
    """
    mean, basis = fit_basis(hr, vae.config.latent_channels, vae.config.patch_size)
    vae.set_basis(mean, basis, torch.ones(basis.shape[1]))
    lost = vae.encode(lr).latent_dist.mode() - vae.encode(hr).latent_dist.mode()
    wanted = torch.full((basis.shape[1],), DETAIL_ERROR)
    wanted[:3] = MEAN_ERROR
    vae.set_basis(mean, basis, wanted / lost.square().mean(dim=(0, 2, 3)).sqrt())
