"""Prediction errors of policy and reference on one group, the inputs of every preference loss
(ALGORITHM: 3.4).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from gdpo_sr.candidates import Sampler, draw_noise, in_chunks, repeat_prompts
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.lora import adapters_disabled


class GroupErrors(NamedTuple):
    """`policy` (with a graph) and `reference`, both (B, G), or (B, G, h, w) per latent element."""

    policy: torch.Tensor
    reference: torch.Tensor


def mean_squared_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """l_i: mean over c, h, w of (prediction - target)^2 in float32; (N, c, h, w) -> (N,)."""
    return (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))


def element_errors(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The same per latent element: mean over c alone; (N, c, h, w) -> (N, h, w)."""
    return (prediction.float() - target.float()).square().mean(dim=1)


def errors_for_noise(
    generator: NoiseAwareGenerator,
    candidates: torch.Tensor,
    prompts: list[str],
    noise: torch.Tensor,
    posterior_noise: torch.Tensor | None = None,
    target: str = "noise",
    chunk: int | None = None,
    policy_unet: nn.Module | None = None,
    frozen: Sampler = adapters_disabled,
    spatial: bool = False,
) -> GroupErrors:
    """Errors of the UNet with and without its adapters on the same noisy candidates.

    Args:
        generator: its UNet carries the LoRA of the policy.
        candidates: (B, G, 3, H, W) in [0, 1].
        prompts: B prompts.
        noise: (B, G, c, h, w), added at t_add.
        posterior_noise: (B, G, c, h, w) for the encoder, or None for its mean.
        target: ``noise``: the injected noise, as in the paper; ``x0``: the prediction that restores
            the candidate's latent
            exactly, which differs because t_add != t_diff.
        chunk: candidates per forward pass where no gradient is kept.
        policy_unet: the UNet as wrapped for distributed training; None takes the generator's.
        frozen: context in which the UNet is the reference.
        spatial: one error per latent element, the mean over its channels.
    """
    shape = candidates.shape[:2]
    embeds = generator.prompt_encoder(repeat_prompts(prompts, shape[1]))
    with torch.no_grad():
        flat_posterior = None if posterior_noise is None else posterior_noise.flatten(0, 1)
        images = candidates.flatten(0, 1) * 2 - 1
        latents = _encode(generator, images, flat_posterior, chunk)
        eps = noise.flatten(0, 1)
        noisy = generator.scheduler.add_noise(latents, eps)
        wanted = eps if target == "noise" else generator.scheduler.target_epsilon(noisy, latents)
        with frozen(generator.unet):
            plain = in_chunks(generator.predict_epsilon, chunk, noisy, embeds)
    tuned = generator.predict_epsilon(noisy, embeds, policy_unet)
    error = element_errors if spatial else mean_squared_error
    errors = (error(prediction, wanted) for prediction in (tuned, plain))
    return GroupErrors(*(error.unflatten(0, shape) for error in errors))


def _encode(
    generator: NoiseAwareGenerator,
    images: torch.Tensor,
    posterior_noise: torch.Tensor | None,
    chunk: int | None,
) -> torch.Tensor:
    if posterior_noise is None:
        return in_chunks(generator.encode, chunk, images)
    return in_chunks(generator.encode, chunk, images, posterior_noise)


def prediction_errors(
    generator: NoiseAwareGenerator,
    candidates: torch.Tensor,
    prompts: list[str],
    rng: torch.Generator,
    target: str = "noise",
    shared_noise: bool = False,
    chunk: int | None = None,
    policy_unet: nn.Module | None = None,
    frozen: Sampler = adapters_disabled,
    spatial: bool = False,
) -> GroupErrors:
    """`errors_for_noise` with fresh noise; `shared_noise` gives all candidates of a group the same.

    The random draws are, in this order: the encoder's posterior, the noise; each (B, G, c, h, w).
    """
    b, g = candidates.shape[:2]
    _, *shape = generator.latent_shape(candidates[:, 0])
    device, dtype = candidates.device, candidates.dtype
    posterior_noise = draw_noise((b, g, *shape), rng, device, dtype)
    noise = draw_noise((b, 1 if shared_noise else g, *shape), rng, device, dtype)
    noise = noise.expand(b, g, *shape)
    return errors_for_noise(
        generator,
        candidates,
        prompts,
        noise,
        posterior_noise,
        target,
        chunk,
        policy_unet,
        frozen,
        spatial,
    )


def prediction_errors_from_lr(
    generator: NoiseAwareGenerator,
    candidates: torch.Tensor,
    lr_latents: torch.Tensor,
    prompts: list[str],
    noise: torch.Tensor,
    policy_unet: nn.Module | None = None,
    frozen: Sampler = adapters_disabled,
    spatial: bool = False,
) -> GroupErrors:
    """Errors where the policy is used: from the noised LR picture, not from a noised candidate.

    Not in the paper. The input is z_LR with each of N noises; the target for candidate j is the
    prediction that restores its latent from that input; l_j is the mean over the N inputs. Since
    advantages sum to 0, the gradient moves every output along sum_j A_j z0_j. With the noises that
    made the candidates (N = G) an input is pulled towards its own candidate if that won and away
    from it if it lost, so that the response to noise is learned and not only the mean.

    Args:
        generator: its UNet carries the LoRA of the policy.
        candidates: (B, G, 3, H, W) in [0, 1].
        lr_latents: (B, c, h, w), from `generator.encode` of the enlarged LR pictures.
        prompts: B prompts.
        noise: (B, N, c, h, w), added at t_add.
        policy_unet, frozen, spatial: as `errors_for_noise`.
    """
    (b, g), n = candidates.shape[:2], noise.shape[1]
    scheduler = generator.scheduler
    embeds = generator.prompt_encoder(repeat_prompts(prompts, n))
    with torch.no_grad():
        noisy = scheduler.add_noise(lr_latents.repeat_interleave(n, dim=0), noise.flatten(0, 1))
        latents = generator.encode(candidates.flatten(0, 1) * 2 - 1).unflatten(0, (b, g))
        wanted = scheduler.target_epsilon(noisy.unflatten(0, (b, n))[:, :, None], latents[:, None])
        with frozen(generator.unet):
            plain = generator.predict_epsilon(noisy, embeds)
    tuned = generator.predict_epsilon(noisy, embeds, policy_unet)
    errors = (
        (prediction.float().unflatten(0, (b, n))[:, :, None] - wanted).square()
        for prediction in (tuned, plain)
    )
    dims = (1, 3) if spatial else (1, 3, 4, 5)
    return GroupErrors(*(error.mean(dim=dims) for error in errors))
