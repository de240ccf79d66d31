"""Groups of candidates: one LR picture, G noises, G restorations; image-major (B, G, ...)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from gdpo_sr.checkpoints.lora import adapters_disabled
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.shared_random import draw_rows
from gdpo_sr.types import SRBatch

Sampler = Callable[[nn.Module], AbstractContextManager[None]]
"""Context, for a UNet, in which it is one of its policies."""


class GroupNoise(NamedTuple):
    """Noise for the encoder's posterior (B, c, h, w), and to inject (B, G, c, h, w)."""

    posterior: torch.Tensor
    injected: torch.Tensor


class Group(NamedTuple):
    """Candidates (B, G, 3, H, W); (B, G, c, h, w) each: the latents that they were decoded from,
    the noisy ones that the UNet was given, and the noise that it predicted for them.
    """

    images: torch.Tensor
    latents: torch.Tensor
    states: torch.Tensor
    epsilon: torch.Tensor


class Actions(NamedTuple):
    """What a Gaussian policy saw, meant and did, (B, G, c, h, w) each.

    Its state is the noisy latent of the LR picture, its action the restored latent.
    """

    states: torch.Tensor
    mean: torch.Tensor
    actions: torch.Tensor


def draw_noise(
    shape: tuple[int, ...],
    rng: torch.Generator,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Standard normal tensor (rows first, see `draw_rows`), drawn where `rng` lives, so that no
    device changes it, then moved.
    """
    return draw_rows(torch.randn, shape, rng).to(device, dtype)


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


def noisy_states(
    generator: NoiseAwareGenerator,
    latents: torch.Tensor,
    noise: torch.Tensor,
    t_adds: Sequence[int] | None = None,
) -> torch.Tensor:
    """What the UNet is given: latents (B, c, h, w) of LR pictures with noise (B, G, c, h, w) added.

    `t_adds` holds a step for each of the G candidates; None: the generator's t_add for all.
    """
    steps = [None] * noise.shape[1] if t_adds is None else list(t_adds)
    add = generator.scheduler.add_noise
    return torch.stack([add(latents, noise[:, g], step) for g, step in enumerate(steps)], 1)


def restored_latents(
    generator: NoiseAwareGenerator,
    states: torch.Tensor,
    prompts: list[str],
) -> torch.Tensor:
    """z_SR of noisy states, both (B, G, c, h, w): the mean of the policy's output."""
    shape = states.shape[:2]
    embeds = generator.prompt_encoder(repeat_prompts(prompts, shape[1]))
    flat = states.flatten(0, 1)
    epsilon = generator.predict_epsilon(flat, embeds)
    return generator.scheduler.predict_x0(flat, epsilon).unflatten(0, shape)


@torch.no_grad()
def generate_group(
    generator: NoiseAwareGenerator,
    enlarged: torch.Tensor,
    noise: torch.Tensor,
    prompts: list[str],
    posterior_noise: torch.Tensor | None = None,
    chunk: int | None = None,
    t_adds: Sequence[int] | None = None,
) -> torch.Tensor:
    """Candidates for given noise.

    Args:
        generator: draws nothing itself.
        enlarged: (B, 3, H, W) in [-1, 1].
        noise: (B, G, c, h, w), standard normal.
        prompts: B prompts.
        posterior_noise: (B, c, h, w) for the encoder's posterior, or None for its mean.
        chunk: candidates per forward pass.
        t_adds: G steps at which noise is added, or None for the generator's.

    Returns:
        (B, G, 3, H, W) in [-1, 1].
    """
    return restore_group(generator, enlarged, noise, prompts, posterior_noise, chunk, t_adds).images


@torch.no_grad()
def restore_group(
    generator: NoiseAwareGenerator,
    enlarged: torch.Tensor,
    noise: torch.Tensor,
    prompts: list[str],
    posterior_noise: torch.Tensor | None = None,
    chunk: int | None = None,
    t_adds: Sequence[int] | None = None,
) -> Group:
    """`generate_group` with what it took; pictures in [-1, 1]."""
    shape = noise.shape[:2]
    encoded = generator.encode(enlarged, posterior_noise)
    states = noisy_states(generator, encoded, noise, t_adds).flatten(0, 1)
    embeds = generator.prompt_encoder(repeat_prompts(prompts, shape[1]))

    epsilon = in_chunks(generator.predict_epsilon, chunk, states, embeds)
    latents = generator.scheduler.predict_x0(states, epsilon)
    images = in_chunks(generator.decode, chunk, latents)
    return Group(*(part.unflatten(0, shape) for part in (images, latents, states, epsilon)))


def draw_group_noise(
    generator: NoiseAwareGenerator, batch: SRBatch, group_size: int, rng: torch.Generator
) -> GroupNoise:
    """Noise of a group, drawn in the order of its fields."""
    b, *shape = generator.latent_shape(batch.hr)
    device, dtype = batch.hr.device, batch.hr.dtype
    posterior_noise = draw_noise((b, *shape), rng, device, dtype)
    return GroupNoise(posterior_noise, draw_noise((b, group_size, *shape), rng, device, dtype))


def sample_candidates(
    generator: NoiseAwareGenerator,
    batch: SRBatch,
    group_size: int,
    rng: torch.Generator,
    chunk: int | None = None,
    noise: GroupNoise | None = None,
    t_adds: Sequence[int] | None = None,
    sampler: Sampler = adapters_disabled,
) -> torch.Tensor:
    """G restorations of every LR picture, each from its own noise; (B, G, 3, H, W) in [0, 1].

    Arguments as `sample_group`.
    """
    return sample_group(generator, batch, group_size, rng, chunk, noise, t_adds, sampler).images


def sample_group(
    generator: NoiseAwareGenerator,
    batch: SRBatch,
    group_size: int,
    rng: torch.Generator,
    chunk: int | None = None,
    noise: GroupNoise | None = None,
    t_adds: Sequence[int] | None = None,
    sampler: Sampler = adapters_disabled,
) -> Group:
    """`sample_candidates` with what it took.

    Args:
        generator: its UNet may carry adapters.
        batch: LR and HR pictures and prompts.
        group_size: G.
        rng: for `draw_group_noise`, if `noise` is not given.
        chunk, t_adds: as `generate_group`.
        noise: from `draw_group_noise`.
        sampler: context in which the UNet is who samples; the default is the reference that the
            base is: the UNet without its adapters.
    """
    posterior_noise, injected = noise or draw_group_noise(generator, batch, group_size, rng)
    enlarged = enlarge_lr(batch.lr, batch.hr)
    with sampler(generator.unet):
        group = restore_group(
            generator, enlarged, injected, batch.prompts, posterior_noise, chunk, t_adds
        )
    return group._replace(images=group.images.float() / 2 + 0.5)


@torch.no_grad()
def sample_actions(
    generator: NoiseAwareGenerator,
    batch: SRBatch,
    noise: GroupNoise,
    rng: torch.Generator,
    sigma: float,
    chunk: int | None = None,
    t_adds: Sequence[int] | None = None,
    sampler: Sampler = adapters_disabled,
) -> tuple[torch.Tensor, Actions]:
    """Candidates of a Gaussian policy: the one-step output plus sigma times fresh noise, decoded.

    Args:
        generator, batch, noise, chunk, t_adds, sampler: as `sample_candidates`.
        rng: draws the action noise, (B, G, c, h, w).
        sigma: standard deviation of the policy in latent units.

    Returns:
        pictures (B, G, 3, H, W) in [0, 1] and what was done to get them.
    """
    latents = generator.encode(enlarge_lr(batch.lr, batch.hr), noise.posterior)
    states = noisy_states(generator, latents, noise.injected, t_adds)
    parts = states.split(chunk or states.shape[1], dim=1)
    with sampler(generator.unet):
        mean = torch.cat([restored_latents(generator, s, batch.prompts) for s in parts], 1)
    xi = draw_noise(tuple(mean.shape), rng, mean.device, mean.dtype)
    actions = mean + sigma * xi
    images = in_chunks(generator.decode, chunk, actions.flatten(0, 1))
    images = images.float().unflatten(0, mean.shape[:2]) / 2 + 0.5
    return images, Actions(states, mean, actions)
