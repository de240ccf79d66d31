"""What the update of one batch of groups asks of the policy, and what the loss makes of the
answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gdpo_sr.config.train_options import TrainOptions
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.group.errors import (
    NoisyGroup,
    draw_update_noise,
    encode_candidates,
    group_embeds,
    group_for_noise,
    group_from_lr,
    predictions,
    reference_predictions,
)
from gdpo_sr.group.rollouts import Rollout
from gdpo_sr.group.sample import enlarge_lr
from gdpo_sr.losses.group_losses import ActionSignal, ErrorSignal, GroupLoss
from gdpo_sr.stage2.reference import Reference


@dataclass
class GroupUpdate:
    """Inputs of the policy's UNet, N per picture.

    Attributes:
        generator: its UNet is the policy.
        noisy: (B, N, c, h, w).
        embeds: (B, N, tokens, d).
        signal: what the loss looks at, from the predictions (B, N, c, h, w), or from those of the
            pictures that a slice names.
    """

    generator: NoiseAwareGenerator
    noisy: torch.Tensor
    embeds: torch.Tensor
    signal: Callable[[torch.Tensor, slice], ErrorSignal | ActionSignal]

    def predict(self, pictures: slice = slice(None), rows: slice = slice(None)) -> torch.Tensor:
        """Predictions of the policy, with a graph."""
        return predictions(self.generator, self.noisy[pictures, rows], self.embeds[pictures, rows])


def group_update(
    generator: NoiseAwareGenerator,
    reference: Reference,
    train: TrainOptions,
    rollout: Rollout,
    rng: torch.Generator,
    loss: GroupLoss,
) -> GroupUpdate:
    """The update of a rollout that has its advantages; `rng` draws noise for the candidates."""
    if rollout.actions is not None:
        return _action_update(generator, reference, train, rollout)
    group = _noisy_group(generator, reference, train, rollout, rng, loss.same_noise)
    group.imitate = loss.imitates

    def signal(prediction: torch.Tensor, pictures: slice = slice(None)) -> ErrorSignal:
        return ErrorSignal(
            *group.errors(prediction, pictures),
            rollout.advantages[pictures],
            rollout.values[0][pictures],
            rollout.mean_spread,
        )

    return GroupUpdate(generator, group.noisy, group.embeds, signal)


def _action_update(
    generator: NoiseAwareGenerator, reference: Reference, train: TrainOptions, rollout: Rollout
) -> GroupUpdate:
    """Outputs of a Gaussian policy, from the states in which it acted."""
    states, old_mean, actions = rollout.states, rollout.actions.mean, rollout.latents
    embeds = group_embeds(generator, rollout.batch.prompts, states.shape[1])
    restore = generator.scheduler.predict_x0
    frozen = None
    if train.loss.kl_weight > 0:
        plain = reference_predictions(
            generator, states, embeds, train.group_chunk, reference.active
        )
        frozen = restore(states, plain)

    def signal(prediction: torch.Tensor, pictures: slice = slice(None)) -> ActionSignal:
        return ActionSignal(
            actions[pictures],
            old_mean[pictures],
            restore(states[pictures], prediction),
            None if frozen is None else frozen[pictures],
            rollout.advantages[pictures],
        )

    return GroupUpdate(generator, states, embeds, signal)


def _noisy_group(
    generator: NoiseAwareGenerator,
    reference: Reference,
    train: TrainOptions,
    rollout: Rollout,
    rng: torch.Generator,
    same_noise: bool,
) -> NoisyGroup:
    """Noisy latents and what to predict, as `train.update_input`, `target` and others say."""
    batch, chunk = rollout.batch, train.group_chunk
    common = {"chunk": chunk, "frozen": reference.active, "spatial": train.by_element}
    if train.update_input == "lr":
        latents = _candidate_latents(generator, train, rollout)
        noisy, plain = rollout.states, rollout.plain
        if train.diversity.source == "t_add":
            noisy, plain = _state_at_t_add(generator, rollout), None
        return group_from_lr(generator, latents, noisy, batch.prompts, plain=plain, **common)
    posterior, noise = draw_update_noise(
        generator, rollout.images, rng, train.shared_noise or same_noise
    )
    latents = _candidate_latents(generator, train, rollout, posterior)
    return group_for_noise(generator, latents, batch.prompts, noise, train.target, **common)


@torch.no_grad()
def _state_at_t_add(generator: NoiseAwareGenerator, rollout: Rollout) -> torch.Tensor:
    """The one input (B, 1, c, h, w) of a group whose candidates come from several steps."""
    batch, noise = rollout.batch, rollout.noise
    latents = generator.encode(enlarge_lr(batch.lr, batch.hr), noise.posterior)
    return generator.scheduler.add_noise(latents[:, None], noise.injected[:, :1])


def _candidate_latents(
    generator: NoiseAwareGenerator,
    train: TrainOptions,
    rollout: Rollout,
    posterior: torch.Tensor | None = None,
) -> torch.Tensor:
    """Latents of the candidates, of their pictures unless `train.reuse_latents`."""
    if train.reuse_latents:
        return rollout.latents
    return encode_candidates(generator, rollout.images, posterior, train.group_chunk)
