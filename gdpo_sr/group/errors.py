"""Prediction errors of policy and reference on one group, the inputs of every preference loss
(ALGORITHM: 3.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from gdpo_sr.checkpoints.lora import adapters_disabled
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.group.sample import Sampler, draw_noise, in_chunks, repeat_prompts


class GroupErrors(NamedTuple):
    """`policy` (with a graph) and `reference`, both (B, G), or (B, G, h, w) per latent element."""

    policy: torch.Tensor
    reference: torch.Tensor


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Half precision as float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mean_squared_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """l_i: mean over c, h, w of (prediction - target)^2 in float32; (..., c, h, w) -> (...)."""
    return _squares(prediction, target).mean(dim=(-3, -2, -1))


def element_errors(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The same per latent element: mean over c alone; (..., c, h, w) -> (..., h, w)."""
    return _squares(prediction, target).mean(dim=-3)


def _squares(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (at_least_float32(prediction) - at_least_float32(target)).square()


@dataclass
class NoisyGroup:
    """What the UNet is given in the update of B groups, and what it should say.

    Attributes:
        noisy: N noisy latents per picture, (B, N, c, h, w).
        embeds: of their prompts, (B, N, tokens, d).
        wanted: right predictions, (B, N, c, h, w); with a dimension G behind N where every one of
            the G candidates has its own on each input (see `_own_errors`).
        plain: the reference's predictions, (B, N, c, h, w).
        spatial: one error per latent element, the mean over its channels.
        imitate: see `_own_errors`.
    """

    noisy: torch.Tensor
    embeds: torch.Tensor
    wanted: torch.Tensor
    plain: torch.Tensor
    spatial: bool = False
    imitate: bool = False

    def errors(self, prediction: torch.Tensor, pictures: slice = slice(None)) -> GroupErrors:
        """Errors of the policy's predictions (B, N, c, h, w), or of those of some `pictures`."""
        wanted, plain = self.wanted[pictures], self.plain[pictures]
        return GroupErrors(*(self._error(p, wanted) for p in (prediction, plain)))

    def _error(self, prediction: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        error = element_errors if self.spatial else mean_squared_error
        if wanted.ndim == prediction.ndim:
            return error(prediction, wanted)
        return _own_errors(error(prediction[:, :, None], wanted), self.imitate)


def _own_errors(pairs: torch.Tensor, imitate: bool = False) -> torch.Tensor:
    """Error of every candidate from errors (B, N, G, ...) of N inputs against G candidates.

    One input: its errors. As many inputs as candidates: input i is made from the noise that made
    candidate i, and what counts is how much closer it came to its own candidate than to the group's
    average, l_ii - mean_j l_ij. That has no lower bound, so what imitates candidate j takes the
    mean of l_ij over all inputs i: whatever the noise, the output is to be candidate j.
    """
    if imitate:
        return pairs.mean(1)
    if pairs.shape[1] == 1:
        return pairs[:, 0]
    return pairs.diagonal(0, 1, 2).movedim(-1, 1) - pairs.mean(2)


def group_for_noise(
    generator: NoiseAwareGenerator,
    latents: torch.Tensor,
    prompts: list[str],
    noise: torch.Tensor,
    target: str = "noise",
    chunk: int | None = None,
    frozen: Sampler = adapters_disabled,
    spatial: bool = False,
) -> NoisyGroup:
    """Candidates with noise added at t_add, as in the paper.

    Args:
        generator: its UNet carries the LoRA of the policy.
        latents: (B, G, c, h, w), of the candidates.
        prompts: B prompts.
        noise: (B, G, c, h, w).
        target: ``noise``: the injected noise, as in the paper; ``x0``: the prediction that restores
            the candidate's latent exactly, which differs because t_add != t_diff.
        chunk: candidates per forward pass of the reference.
        frozen: context in which the UNet is the reference.
        spatial: one error per latent element, the mean over its channels.
    """
    scheduler = generator.scheduler
    noisy = scheduler.add_noise(latents, noise)
    wanted = noise if target == "noise" else scheduler.target_epsilon(noisy, latents)
    embeds = group_embeds(generator, prompts, noise.shape[1])
    plain = reference_predictions(generator, noisy, embeds, chunk, frozen)
    return NoisyGroup(noisy, embeds, wanted, plain, spatial)


def group_from_lr(
    generator: NoiseAwareGenerator,
    latents: torch.Tensor,
    noisy: torch.Tensor,
    prompts: list[str],
    chunk: int | None = None,
    frozen: Sampler = adapters_disabled,
    spatial: bool = False,
    plain: torch.Tensor | None = None,
) -> NoisyGroup:
    """Where the policy is used: the noised LR picture, not a noised candidate.

    Not in the paper. The input is z_LR with each of N noises; the target for candidate j is the
    prediction that restores its latent from that input. With one input (N = 1) l_j is its error;
    since advantages sum to 0, the gradient moves the output along sum_j A_j z0_j. With the noises
    that made the candidates (N = G), l_i says how much closer input i came to its own candidate
    than to the group's average: a winner's noise is moved further from the group's mean, a loser's
    towards it, along A_i (z0_i - mean_j z0_j). The mean of the outputs moves as with all targets
    for all inputs, without their noise: that of the other candidates' content.

    Args:
        latents: (B, G, c, h, w), of the candidates.
        noisy: (B, N, c, h, w), latents of the LR picture with noise added at t_add; N is 1 or G.
        plain: (B, N, c, h, w), what the reference predicts for `noisy`, if that is known.
        generator, prompts, chunk, frozen, spatial: as `group_for_noise`.
    """
    wanted = generator.scheduler.target_epsilon(noisy[:, :, None], latents[:, None])
    embeds = group_embeds(generator, prompts, noisy.shape[1])
    if plain is None:
        plain = reference_predictions(generator, noisy, embeds, chunk, frozen)
    return NoisyGroup(noisy, embeds, wanted, plain, spatial)


def group_embeds(generator: NoiseAwareGenerator, prompts: list[str], count: int) -> torch.Tensor:
    """Embeddings of B prompts, each `count` times; (B, count, tokens, d)."""
    embeds = generator.prompt_encoder(repeat_prompts(prompts, count))
    return embeds.unflatten(0, (len(prompts), count))


def predictions(
    generator: NoiseAwareGenerator,
    noisy: torch.Tensor,
    embeds: torch.Tensor,
    chunk: int | None = None,
) -> torch.Tensor:
    """The UNet's noise predictions for noisy latents, both (B, N, c, h, w); keeps a graph."""
    flat = noisy.flatten(0, 1), embeds.flatten(0, 1)
    return in_chunks(generator.predict_epsilon, chunk, *flat).unflatten(0, noisy.shape[:2])


@torch.no_grad()
def reference_predictions(
    generator: NoiseAwareGenerator,
    noisy: torch.Tensor,
    embeds: torch.Tensor,
    chunk: int | None = None,
    frozen: Sampler = adapters_disabled,
) -> torch.Tensor:
    """`predictions` in the context `frozen`, in which the UNet is the reference."""
    with frozen(generator.unet):
        return predictions(generator, noisy, embeds, chunk)


@torch.no_grad()
def encode_candidates(
    generator: NoiseAwareGenerator,
    candidates: torch.Tensor,
    posterior_noise: torch.Tensor | None = None,
    chunk: int | None = None,
) -> torch.Tensor:
    """Latents (B, G, c, h, w) of candidates (B, G, 3, H, W) in [0, 1].

    `posterior_noise`, of the latents' shape, draws from the encoder's posterior; None takes its
    mean. `chunk` candidates are encoded at a time.
    """
    images = [candidates.flatten(0, 1) * 2 - 1]
    noise = [] if posterior_noise is None else [posterior_noise.flatten(0, 1)]
    return in_chunks(generator.encode, chunk, *images, *noise).unflatten(0, candidates.shape[:2])


def draw_update_noise(
    generator: NoiseAwareGenerator,
    candidates: torch.Tensor,
    rng: torch.Generator,
    shared: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise for the encoder's posterior, then to add, each (B, G, c, h, w), drawn in this order.

    `shared` gives all candidates of a group the same noise to add.
    """
    b, g = candidates.shape[:2]
    _, *shape = generator.latent_shape(candidates[:, 0])
    device, dtype = candidates.device, candidates.dtype
    posterior_noise = draw_noise((b, g, *shape), rng, device, dtype)
    noise = draw_noise((b, 1 if shared else g, *shape), rng, device, dtype)
    return posterior_noise, noise.expand(b, g, *shape)


def prediction_errors(
    generator: NoiseAwareGenerator,
    candidates: torch.Tensor,
    prompts: list[str],
    rng: torch.Generator,
    target: str = "noise",
) -> GroupErrors:
    """Errors of the UNet with and without its adapters on the same noisy candidates, fresh noise.

    Args:
        candidates: (B, G, 3, H, W) in [0, 1].
        rng: for `draw_update_noise`.
        generator, prompts, target: as `group_for_noise`.
    """
    posterior_noise, noise = draw_update_noise(generator, candidates, rng)
    latents = encode_candidates(generator, candidates, posterior_noise)
    group = group_for_noise(generator, latents, prompts, noise, target)
    return group.errors(predictions(generator, group.noisy, group.embeds))
