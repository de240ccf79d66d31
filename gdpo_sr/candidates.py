"""Groups of candidates: one LR picture, G noises, G restorations; image-major (B, G, ...)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.lora import adapters_disabled
from gdpo_sr.types import SRBatch


def draw_noise(
    shape: tuple[int, ...],
    rng: torch.Generator,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Standard normal tensor, drawn where `rng` lives, so that no device changes it, then moved."""
    return torch.randn(tuple(shape), generator=rng, device=rng.device).to(device, dtype)


def enlarge_lr(lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """LR pictures (B, 3, h, w) in [0, 1], bicubic at the size of hr, in the generator's [-1, 1]."""
    return F.interpolate(lr, size=hr.shape[-2:], mode="bicubic").clamp(0, 1) * 2 - 1


def repeat_prompts(prompts: list[str], group_size: int) -> list[str]:
    """Prompts of flattened (B, G) candidates: each picture's own G times, picture by picture."""
    return [prompt for prompt in prompts for _ in range(group_size)]


def in_chunks(function, chunk: int | None, *tensors: torch.Tensor) -> torch.Tensor:
    """`function(*tensors)` computed `chunk` rows at a time and concatenated (None: all at once)."""
    if chunk is None or chunk >= len(tensors[0]):
        return function(*tensors)
    parts = zip(*(t.split(chunk) for t in tensors), strict=True)
    return torch.cat([function(*part) for part in parts])


@torch.no_grad()
def generate_group(
    generator: NoiseAwareGenerator,
    enlarged: torch.Tensor,
    noise: torch.Tensor,
    prompts: list[str],
    posterior_noise: torch.Tensor | None = None,
    chunk: int | None = None,
) -> torch.Tensor:
    """Candidates for given noise.

    Args:
        generator: draws nothing itself.
        enlarged: (B, 3, H, W) in [-1, 1].
        noise: (B, G, c, h, w), standard normal.
        prompts: B prompts.
        posterior_noise: (B, c, h, w) for the encoder's posterior, or None for its mean.
        chunk: candidates per forward pass.

    Returns:
        (B, G, 3, H, W) in [-1, 1].
    """
    b, g = noise.shape[:2]
    latents = generator.encode(enlarged, posterior_noise).repeat_interleave(g, dim=0)
    embeds = generator.prompt_encoder(repeat_prompts(prompts, g))

    def restore(z: torch.Tensor, eps: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return generator.decode(generator.restore_latents(z, eps, text))

    images = in_chunks(restore, chunk, latents, noise.flatten(0, 1), embeds)
    return images.unflatten(0, (b, g))


def draw_group_noise(
    generator: NoiseAwareGenerator, batch: SRBatch, group_size: int, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of a group: for the encoder's posterior (B, c, h, w), to inject (B, G, c, h, w)."""
    b, *shape = generator.latent_shape(batch.hr)
    device, dtype = batch.hr.device, batch.hr.dtype
    posterior_noise = draw_noise((b, *shape), rng, device, dtype)
    return posterior_noise, draw_noise((b, group_size, *shape), rng, device, dtype)


def sample_candidates(
    generator: NoiseAwareGenerator,
    batch: SRBatch,
    group_size: int,
    rng: torch.Generator,
    chunk: int | None = None,
    noise: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """G restorations of every LR picture, each from its own noise; (B, G, 3, H, W) in [0, 1].

    The reference samples: the UNet without its adapters. `noise`, from `draw_group_noise`, is drawn
    from `rng` if it is not given.
    """
    posterior_noise, injected = noise or draw_group_noise(generator, batch, group_size, rng)
    enlarged = enlarge_lr(batch.lr, batch.hr)
    with adapters_disabled(generator.unet):
        images = generate_group(
            generator, enlarged, injected, batch.prompts, posterior_noise, chunk
        )
    return images.float() / 2 + 0.5
