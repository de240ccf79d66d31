"""Choose the coefficients and gains of the embedded base's autoencoder from photographs."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gdpo_sr.generators.lapped_autoencoder import LappedAutoencoder
from gdpo_sr.generators.lapped_transform import lapped_kernels

DETAIL_ERROR, MEAN_ERROR = 1.15, 2.3
"""Wanted RMS difference between LR and HR latents, per channel of detail and of local means (the
three leading ones).

Relative to a latent scaled by 0.82, the noise injected at t = 250 has a standard deviation of 0.70:
of the size of the detail that is missing, so that it can stand for it, and small against what the
LR picture tells about the means."""


def fit_kernels(
    crops: torch.Tensor, channels: int, hop: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean colour (3,) and the kernels (channels, 3, 2 hop, 2 hop) of largest variance.

    Each is a product of a principal colour of the crops (N, 3, H, W), in [-1, 1], and of a row and
    a column of the lapped transform.
    """
    mean = crops.mean(dim=(0, 2, 3))
    centred = crops - mean[:, None, None]
    colours = torch.linalg.eigh(torch.einsum("nchw,ndhw->cd", centred, centred).double())[1]
    kernels = lapped_kernels(colours.T.flip(0), hop)
    energy = F.conv2d(centred, kernels, stride=hop).square().mean(dim=(0, 2, 3))
    return mean, kernels[energy.argsort(descending=True)[:channels]]


@torch.no_grad()
def fit_autoencoder(vae: LappedAutoencoder, hr: torch.Tensor, lr: torch.Tensor) -> None:
    """Set kernels from hr and gains from what lr lost of it; both (N, 3, H, W) in [-1, 1], lr
    resized to hr.
    """
    mean, kernels = fit_kernels(hr, vae.config.latent_channels, vae.config.patch_size)
    vae.set_kernels(mean, kernels, torch.ones(len(kernels)))
    lost = vae.encode(lr).latent_dist.mode() - vae.encode(hr).latent_dist.mode()
    wanted = torch.full((len(kernels),), DETAIL_ERROR)
    wanted[:3] = MEAN_ERROR
    vae.set_kernels(mean, kernels, wanted / lost.square().mean(dim=(0, 2, 3)).sqrt())
