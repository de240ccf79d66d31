"""Prediction errors of policy and reference on one group, the inputs of a loss (ALGORITHM: 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from gdpo_sr.checkpoints.lora import adapters_disabled
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.group.sample import Group, draw_noise, group_embeds, in_chunks, predict_group
from gdpo_sr.losses.base import GroupErrors


@dataclass(frozen=True)
class Comparison:
    """What the network is given in the update and what it should say; defaults: the released step.

    Attributes:
        update_input: what noise is added to: each candidate's latent, or the LR latent with the
            noises that made the candidates; "action": as "lr", each input against its own action.
        target: of update_input "candidate": the injected noise, or "x0": the prediction that
            restores the candidate's latent exactly, which differs because t_add != t_diff.
        per_element: one error per latent element, the mean over its channels.
        same_noise: candidates of one group get the same noise.
        imitate: errors are bounded below (see `_own_errors`).
        reuse_latents: take the latents that were sampled, instead of encoding the pictures.
        drift: also say how far the policy is from the reference.
        chunk: candidates per forward pass without a graph; None: all.
    """

    update_input: Literal["candidate", "lr", "action"] = "candidate"
    target: Literal["noise", "x0"] = "noise"
    per_element: bool = False
    same_noise: bool = False
    imitate: bool = False
    reuse_latents: bool = False
    drift: bool = False
    chunk: int | None = None


@dataclass
class GroupInputs:
    """N inputs of the UNet for each of B groups, and what it should say.

    Attributes:
        noisy: noisy latents (B, N, c, h, w).
        embeds: of their prompts, (B, N, tokens, d).
        wanted: right predictions, (B, N, c, h, w); with a dimension G behind N where every one of
            the G candidates has its own on each input.
        reference_epsilon: (B, N, c, h, w), the reference's predictions; of an action those of who
            took it.
        anchor: the reference's predictions that `drift` is measured from, or None.
        unit: what an error of 1 in a prediction counts; see `latent_unit`.
        per_element, imitate: as `Comparison`.
    """

    noisy: torch.Tensor
    embeds: torch.Tensor
    wanted: torch.Tensor
    reference_epsilon: torch.Tensor
    anchor: torch.Tensor | None = None
    unit: float = 1.0
    per_element: bool = False
    imitate: bool = False

    def predict(
        self, network: NoiseAwareGenerator, part: tuple[slice, ...] = (slice(None),)
    ) -> torch.Tensor:
        """The policy's predictions (B, N, c, h, w) in float32 or more, or those of a `part`."""
        return at_least_float32(predict_group(network, self.noisy[part], self.embeds[part]))

    def errors(self, prediction: torch.Tensor) -> GroupErrors:
        """Errors of the policy's predictions, with its graph, and of the reference's."""
        policy, reference = (self._error(p) for p in (prediction, self.reference_epsilon))
        return GroupErrors(policy, reference, self._drift(prediction))

    def _drift(self, prediction: torch.Tensor) -> torch.Tensor | None:
        """Per input; of all inputs, where every candidate is the target of all of them."""
        if self.anchor is None:
            return None
        drift = self._distance(prediction, self.anchor)
        shared = self.imitate and self.wanted.ndim > prediction.ndim
        return drift.mean(1, keepdim=True) if shared else drift

    def _error(self, prediction: torch.Tensor) -> torch.Tensor:
        if self.wanted.ndim == prediction.ndim:
            return self._distance(prediction, self.wanted)
        return _own_errors(self._distance(prediction[:, :, None], self.wanted), self.imitate)

    def _distance(self, prediction: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        dims = (-3,) if self.per_element else (-3, -2, -1)
        return self.unit * mean_squared_error(prediction, wanted, dims)


def prediction_errors(
    network: NoiseAwareGenerator,
    group: Group,
    rng: torch.Generator,
    comparison: Comparison = Comparison(),
) -> GroupErrors:
    """l and lref, (B, G), or (B, G, h, w) per latent element: errors of the UNet with and without
    its adapters on the same noisy latents.

    Args:
        network: its UNet carries the adapters of the policy.
        group: candidates.
        rng: draws the noise for the posterior of the encoded candidates, then that to add.
        comparison: what is compared.
    """
    inputs = group_inputs(network, group, rng, comparison)
    return inputs.errors(inputs.predict(network))


@torch.no_grad()
def group_inputs(
    network: NoiseAwareGenerator,
    group: Group,
    rng: torch.Generator,
    comparison: Comparison = Comparison(),
) -> GroupInputs:
    """Everything of `prediction_errors` but the policy; arguments as there."""
    c = comparison
    make = {"candidate": _from_candidates, "lr": _from_lr, "action": _from_actions}
    noisy, wanted, known = make[c.update_input](network, group, rng, c)
    embeds = group_embeds(network, group.prompts, noisy.shape[1])
    anchor = None
    if known is None or c.drift:
        with adapters_disabled(network.unet):
            anchor = predict_group(network, noisy, embeds, c.chunk)
    known = anchor if known is None else known
    unit = latent_unit(network) if c.update_input == "action" else 1.0
    anchor = anchor if c.drift else None
    return GroupInputs(noisy, embeds, wanted, known, anchor, unit, c.per_element, c.imitate)


def latent_unit(network: NoiseAwareGenerator) -> float:
    """||x0hat - z0||^2 = latent_unit ||e - e*||^2 (ALGORITHM: 0.11829 at t_diff = 100)."""
    alpha_bar = network.scheduler.alpha_bar(network.scheduler.config.t_diff)
    return (1 - alpha_bar) / alpha_bar


Made = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Noisy latents, what to predict for them, and the reference's predictions if they are known."""


def _from_candidates(
    network: NoiseAwareGenerator, group: Group, rng: torch.Generator, c: Comparison
) -> Made:
    """As in the paper."""
    posterior, noise = draw_update_noise(group.latents, rng, c.same_noise)
    latents = candidate_latents(network, group, posterior, c)
    noisy = network.scheduler.add_noise(latents, noise)
    if c.target == "noise":
        return noisy, noise, None
    return noisy, network.scheduler.target_epsilon(noisy, latents), None


def _from_lr(
    network: NoiseAwareGenerator, group: Group, rng: torch.Generator, c: Comparison
) -> Made:
    """Where the policy is used: the noised LR picture, not a noised candidate. Not in the paper.

    The input is z_LR with each of N noises; the target for candidate j is the prediction that
    restores its latent from that input. With one input (N = 1) l_j is its error; since advantages
    sum to 0, the gradient moves the output along sum_j A_j z0_j. With the noises that made the
    candidates (N = G), l_i says how much closer input i came to its own candidate than to the
    group's average: a winner's noise is moved further from the group's mean, a loser's towards it,
    along A_i (z0_i - mean_j z0_j). The mean of the outputs moves as with all targets for all
    inputs, without their noise: that of the other candidates' content.
    """
    latents = candidate_latents(network, group, None, c)
    noisy, known = group.states, None if group.by_policy else group.epsilon
    if group.usual_state is not None:
        noisy, known = group.usual_state, None
    return noisy, network.scheduler.target_epsilon(noisy[:, :, None], latents[:, None]), known


def _from_actions(
    network: NoiseAwareGenerator, group: Group, rng: torch.Generator, c: Comparison
) -> Made:
    """States, each with its action."""
    wanted = network.scheduler.target_epsilon(group.states, group.latents)
    return group.states, wanted, group.epsilon


def draw_update_noise(
    latents: torch.Tensor, rng: torch.Generator, same: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise for the encoder's posterior, then to add, of the candidates' latents (B, G, c, h, w).

    `same` gives all candidates of a group the same noise to add.
    """
    b, g, *shape = latents.shape
    kind = latents.device, torch.promote_types(latents.dtype, torch.float32)
    posterior = draw_noise((b, g, *shape), rng, *kind)
    noise = draw_noise((b, 1 if same else g, *shape), rng, *kind)
    return posterior, noise.expand(b, g, *shape)


def candidate_latents(
    network: NoiseAwareGenerator,
    group: Group,
    posterior: torch.Tensor | None,
    comparison: Comparison = Comparison(),
) -> torch.Tensor:
    """z0 (B, G, c, h, w) of the candidates' pictures, or as they were sampled.

    `posterior`, of the latents' shape, draws from the encoder's posterior; None takes its mean.
    """
    if comparison.reuse_latents:
        return group.latents
    parts = [part.flatten(0, 1) for part in (group.images * 2 - 1, posterior) if part is not None]
    latents = in_chunks(network.encode, comparison.chunk, *parts)
    return latents.unflatten(0, group.images.shape[:2])


def _own_errors(pairs: torch.Tensor, imitate: bool) -> torch.Tensor:
    """Error of every candidate from errors (B, N, G, ...) of N inputs against G candidates.

    One input: its errors. As many inputs as candidates: input i is made from the noise that made
    candidate i, and what counts is how much closer it came to its own candidate than to the group's
    average, l_ii - mean_j l_ij. That has no lower bound, so what imitates candidate j takes the
    mean of l_ij over all inputs i: whatever the noise, the output is to be candidate j.
    """
    if imitate or pairs.shape[1] == 1:
        return pairs.mean(1)
    return pairs.diagonal(0, 1, 2).movedim(-1, 1) - pairs.mean(2)


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Half precision as float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mean_squared_error(
    prediction: torch.Tensor, target: torch.Tensor, dims: tuple[int, ...]
) -> torch.Tensor:
    """l_i: mean of (prediction - target)^2 in float32 over c, h, w, or over c alone (-3,)."""
    return (at_least_float32(prediction) - at_least_float32(target)).square().mean(dims)
