"""Groups of candidates: one LR picture, G noises, G restorations; image-major (B, G, ...)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from gdpo_sr.checkpoints.lora import adapters_disabled
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.generators.remembered import without_dropout
from gdpo_sr.shared_random import draw_rows
from gdpo_sr.types import SRBatch


@dataclass(frozen=True)
class Sampling:
    """How groups are sampled; the defaults are the released step's.

    Attributes:
        by_policy: the network samples as it is now; False: the reference, its adapters off.
        t_adds: G steps at which one noise is added, instead of G noises at the network's t_add.
        posteriors: each candidate has its own draw of the encoder's posterior.
        action_sigma: standard deviation of noise added to the restored latents, the actions of a
            Gaussian policy.
        chunk: candidates per forward pass; None: all.
    """

    by_policy: bool = False
    t_adds: tuple[int, ...] | None = None
    posteriors: bool = False
    action_sigma: float = 0.0
    chunk: int | None = None


class GroupNoise(NamedTuple):
    """Noise for the encoder's posterior (B, c, h, w) or (B, G, c, h, w), None for its mean, and to
    inject (B, G, c, h, w).
    """

    posterior: torch.Tensor | None
    injected: torch.Tensor


@dataclass
class Group:
    """Candidates of B pictures and what it took to get them.

    Attributes:
        enlarged: LR pictures (B, 3, H, W) at the candidates' size, in [-1, 1].
        prompts: B prompts.
        images: (B, G, 3, H, W) in [0, 1].
        latents: (B, G, c, h, w), what the images were decoded from.
        states: (B, G, c, h, w), noisy latents of the LR pictures.
        epsilon: (B, G, c, h, w), what was predicted for the states.
        usual_state: (B, 1, c, h, w), the LR latents with noise at the network's own t_add where the
            candidates come from several steps, else None.
        by_policy: who sampled.
    """

    enlarged: torch.Tensor
    prompts: list[str]
    images: torch.Tensor
    latents: torch.Tensor
    states: torch.Tensor
    epsilon: torch.Tensor
    usual_state: torch.Tensor | None = None
    by_policy: bool = False


def sample_group(
    network: NoiseAwareGenerator,
    batch: SRBatch,
    group_size: int,
    rng: torch.Generator,
    sampling: Sampling = Sampling(),
) -> Group:
    """G restorations of every LR picture, each from its own noise.

    Args:
        network: its UNet may carry the adapters of the policy.
        batch: LR and HR pictures and prompts.
        group_size: G.
        rng: draws the noise of the posterior, the injected noise, then that of the actions.
        sampling: how.
    """
    count = 1 if sampling.t_adds else group_size
    noise = draw_group_noise(network, batch, count, rng, sampling.posteriors)
    sampler = without_dropout if sampling.by_policy else adapters_disabled
    with sampler(network.unet):
        enlarged = enlarge_lr(batch.lr, batch.hr)
        return restore_group(network, enlarged, batch.prompts, noise, sampling, rng)


@torch.no_grad()
def restore_group(
    network: NoiseAwareGenerator,
    enlarged: torch.Tensor,
    prompts: list[str],
    noise: GroupNoise,
    sampling: Sampling = Sampling(),
    rng: torch.Generator | None = None,
) -> Group:
    """Candidates for given noise, by the network as it is; `rng` is for actions alone.

    Args as `Group` and `sample_group`.
    """
    z_lr = network.encode(enlarged, noise.posterior)
    states, usual = _states(network, z_lr, noise.injected, sampling.t_adds)
    embeds = group_embeds(network, prompts, states.shape[1])
    epsilon = predict_group(network, states, embeds, sampling.chunk)
    latents = network.scheduler.predict_x0(states, epsilon)
    if sampling.action_sigma and rng is not None:
        xi = draw_noise(tuple(latents.shape), rng, latents.device, latents.dtype)
        latents = latents + sampling.action_sigma * xi
    images = in_chunks(network.decode, sampling.chunk, latents.flatten(0, 1))
    images = images.unflatten(0, states.shape[:2]).float() / 2 + 0.5
    return Group(enlarged, prompts, images, latents, states, epsilon, usual, sampling.by_policy)


def decoded_group(
    network: NoiseAwareGenerator, group: Group, noisy: torch.Tensor, epsilon: torch.Tensor
) -> Group:
    """What the network makes of noisy latents (B, N, c, h, w) by given predictions, with their
    graph, instead of the candidates of `group`.
    """
    latents = network.scheduler.predict_x0(noisy, epsilon)
    images = network.decode(latents.flatten(0, 1).to(noisy.dtype)).unflatten(0, latents.shape[:2])
    return replace(group, images=images.float() / 2 + 0.5, latents=latents, epsilon=epsilon)


def _states(
    network: NoiseAwareGenerator,
    z_lr: torch.Tensor,
    noise: torch.Tensor,
    t_adds: Sequence[int] | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the UNet is given: z_LR (B, c, h, w) or (B, G, c, h, w) with noise (B, G, c, h, w), or
    one noise at each of G steps, and then the same at the usual step.
    """
    add = network.scheduler.add_noise
    usual = add(z_lr if z_lr.ndim == noise.ndim else z_lr[:, None], noise)
    if t_adds is None:
        return usual, None
    return torch.stack([add(z_lr, noise[:, 0], step) for step in t_adds], 1), usual


def draw_group_noise(
    network: NoiseAwareGenerator,
    batch: SRBatch,
    group_size: int,
    rng: torch.Generator,
    posteriors: bool,
) -> GroupNoise:
    """Noise of a group, drawn in the order of its fields; `posteriors`: one for each candidate."""
    b, *shape = network.latent_shape(batch.hr)
    device, dtype = batch.hr.device, batch.hr.dtype
    size = (b, group_size, *shape) if posteriors else (b, *shape)
    posterior = draw_noise(size, rng, device, dtype)
    return GroupNoise(posterior, draw_noise((b, group_size, *shape), rng, device, dtype))


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
    """LR pictures (B, 3, h, w) in [0, 1], bicubic at the size of hr, in the network's [-1, 1]."""
    return F.interpolate(lr, size=hr.shape[-2:], mode="bicubic").clamp(0, 1) * 2 - 1


def repeat_prompts(prompts: list[str], group_size: int) -> list[str]:
    """Prompts of flattened (B, G) candidates: each picture's own G times, picture by picture."""
    return [prompt for prompt in prompts for _ in range(group_size)]


def group_embeds(network: NoiseAwareGenerator, prompts: list[str], count: int) -> torch.Tensor:
    """Embeddings of B prompts, each `count` times; (B, count, tokens, d)."""
    embeds = network.prompt_encoder(repeat_prompts(prompts, count))
    return embeds.unflatten(0, (len(prompts), count))


def predict_group(
    network: NoiseAwareGenerator,
    noisy: torch.Tensor,
    embeds: torch.Tensor,
    chunk: int | None = None,
) -> torch.Tensor:
    """The UNet's noise predictions for noisy latents, (B, N, c, h, w); keeps a graph."""
    flat = noisy.flatten(0, 1), embeds.flatten(0, 1)
    return in_chunks(network.predict_epsilon, chunk, *flat).unflatten(0, noisy.shape[:2])


def in_chunks(
    function: Callable[..., torch.Tensor], chunk: int | None, *tensors: torch.Tensor
) -> torch.Tensor:
    """`function(*tensors)` computed `chunk` rows at a time and concatenated (None: all at once)."""
    if chunk is None or chunk >= len(tensors[0]):
        return function(*tensors)
    parts = zip(*(t.split(chunk) for t in tensors), strict=True)
    return torch.cat([function(*part) for part in parts])
