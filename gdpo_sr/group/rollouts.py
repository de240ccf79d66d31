"""Rollouts: groups of candidates, their scores, and the advantages of all groups of one update."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from gdpo_sr.advantages import advantages_of, finite_std, permutation_within_groups, tied
from gdpo_sr.config.train_options import TrainOptions
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.group.attribute_aware import content_weights, reward_values
from gdpo_sr.group.cells import cell_advantages, score_cells, split_cells
from gdpo_sr.group.sample import (
    Actions,
    GroupNoise,
    Sampler,
    draw_group_noise,
    enlarge_lr,
    sample_actions,
    sample_group,
)
from gdpo_sr.group.score import score_candidates
from gdpo_sr.rewards.base import Reward
from gdpo_sr.rewards.content_weights import texture_map
from gdpo_sr.rewards.regions import advantage_map, latent_texture, score_regions
from gdpo_sr.trainer.random_sources import RandomSources
from gdpo_sr.types import SRBatch
from gdpo_sr.utils.color_fix import apply_color_fix


@dataclass
class Rollout:
    """The groups of one batch.

    Attributes:
        batch: LR and HR pictures and prompts.
        images: candidates (B, G, 3, H, W) in [0, 1].
        noise: what made them.
        latents: (B, G, c, h, w), what they were decoded from.
        states: (B, G, c, h, w), noisy latents of the LR picture that they came from.
        plain: (B, G, c, h, w), what the reference predicted for the states; None if the policy
            sampled.
        scores: (B, G) by reward name, higher is better.
        values: what a candidate's rewards add up to, (B, G); with regions: smooth, textured; with
            cells (B * cells, G).
        actions: of a Gaussian policy, else None.
        share: textured share of every latent element (B, h, w), with regions.
        in_cells: whether scores and values are those of cells.
        advantages: (B, G), or (B, G, h, w) with regions or cells; from `set_advantages`.
        mean_spread: mean std of `values[0]` in all groups of the update; from `set_advantages`.
        seconds: spent, by part.
    """

    batch: SRBatch
    images: torch.Tensor
    noise: GroupNoise
    latents: torch.Tensor
    states: torch.Tensor
    plain: torch.Tensor | None = None
    scores: dict[str, torch.Tensor] = field(default_factory=dict)
    values: list[torch.Tensor] = field(default_factory=list)
    actions: Actions | None = None
    share: torch.Tensor | None = None
    in_cells: bool = False
    advantages: torch.Tensor | None = None
    mean_spread: torch.Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Write the seconds spent inside to `seconds[part]`."""
    start = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - start


def roll_out(
    generator: NoiseAwareGenerator,
    rewards: Mapping[str, Reward],
    train: TrainOptions,
    batch: SRBatch,
    random: RandomSources,
    sampler: Sampler,
) -> Rollout:
    """Sample groups and score them; `sampler` is the context in which the UNet samples."""
    seconds: dict[str, float] = {}
    with timed(seconds, "sampling"):
        rollout = _sample(generator, train, batch, random, sampler)
    with timed(seconds, "rewards"), torch.autocast(batch.hr.device.type, enabled=False):
        _score(rollout, generator, rewards, train)
        if train.control == "permuted_advantages":
            _permute(rollout, random["control"])
    rollout.seconds = seconds
    return rollout


def _sample(
    generator: NoiseAwareGenerator,
    train: TrainOptions,
    batch: SRBatch,
    random: RandomSources,
    sampler: Sampler,
) -> Rollout:
    noise, t_adds = _group_noise(generator, train, batch, random["sampling"])
    if train.loss.type == "grpo":
        images, actions = sample_actions(
            generator,
            batch,
            noise,
            random["action"],
            train.loss.sigma,
            train.group_chunk,
            t_adds,
            sampler,
        )
        return Rollout(batch, images, noise, actions.actions, actions.states, actions=actions)
    group = sample_group(
        generator,
        batch,
        train.group_size,
        random["sampling"],
        train.group_chunk,
        noise,
        t_adds,
        sampler,
    )
    plain = group.epsilon if train.sampler == "reference" else None
    return Rollout(batch, group.images, noise, group.latents, group.states, plain)


def _group_noise(
    generator: NoiseAwareGenerator, train: TrainOptions, batch: SRBatch, rng: torch.Generator
) -> tuple[GroupNoise, list[int] | None]:
    """What makes the candidates of a group differ: noises, or one noise and G steps."""
    size = train.group_size
    if train.diversity.source == "noise":
        return draw_group_noise(generator, batch, size, rng), None
    noise = draw_group_noise(generator, batch, 1, rng)
    steps = torch.linspace(*train.diversity.t_add_range, size).round().int().tolist()
    injected = noise.injected.expand(-1, size, *noise.injected.shape[2:])
    return GroupNoise(noise.posterior, injected), steps


def _score(
    rollout: Rollout,
    generator: NoiseAwareGenerator,
    rewards: Mapping[str, Reward],
    train: TrainOptions,
) -> None:
    hr, x, kind = rollout.batch.hr, train.reward.texture, train.advantage.type
    images = _as_given_out(rollout, train.reward.color_fix)
    if not train.spatial:
        if train.cell_size is None:
            rollout.scores = score_candidates(rewards, images, hr)
        else:
            rollout.scores = score_cells(rewards, images, hr, train.cell_size)
            hr = split_cells(hr, train.cell_size)
            rollout.in_cells = True
        fixed = train.reward.fixed_perception_weight
        texture = content_weights(hr, x.patch_size, x.threshold, x.grey, fixed)
        rollout.values = [reward_values(rollout.scores, rewards, texture, kind)]
        return
    texture = texture_map(hr, x.patch_size, x.threshold, x.grey)
    rollout.scores = score_regions(rewards, images, hr, texture)
    rollout.values = [
        _region_values(part, rollout, rewards, kind) for part in ("fidelity", "perception")
    ]
    rollout.share = latent_texture(texture, generator.latent_shape(hr)[2:])


def _as_given_out(rollout: Rollout, color_fix: str) -> torch.Tensor:
    """Candidates (B, G, 3, H, W) in [0, 1] with the colours of their LR picture, as inference
    writes them.
    """
    if color_fix == "none":
        return rollout.images
    batch, size = rollout.batch, rollout.images.shape[1]
    colours = (enlarge_lr(batch.lr, batch.hr) / 2 + 0.5).repeat_interleave(size, 0)
    fixed = apply_color_fix(color_fix, rollout.images.flatten(0, 1), colours)
    return fixed.clamp(0, 1).unflatten(0, (-1, size))


def _region_values(
    part: str, rollout: Rollout, rewards: Mapping[str, Reward], estimator: str
) -> torch.Tensor:
    """Values (B, G) of one region, from the rewards of its kind; 0 where it has none."""
    own = {name: r for name, r in rewards.items() if r.kind == part and r.weight > 0}
    if not own:
        return rollout.images.new_zeros(rollout.images.shape[:2])
    return reward_values(rollout.scores, own, None, estimator)


def _permute(rollout: Rollout, rng: torch.Generator) -> None:
    """The control experiment: values handed to the candidates of their group at random."""
    order = permutation_within_groups(tuple(rollout.values[0].shape), rng)
    order = order.to(rollout.values[0].device)
    rollout.values = [values.gather(-1, order) for values in rollout.values]


def set_advantages(
    rollouts: list[Rollout],
    estimator: str,
    clip: float | None,
    gather: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Advantages of every rollout of one update, with statistics of all groups of all processes.

    Args:
        rollouts: one per accumulation step.
        estimator, clip: as `gdpo_sr.advantages.advantages_of`.
        gather: the rows of a tensor (N, G) of all processes.
    """
    regions = range(len(rollouts[0].values))
    batches = [gather(torch.cat([r.values[i] for r in rollouts])) for i in regions]
    for rollout in rollouts:
        found = [
            advantages_of(values, estimator, batch, clip)
            for values, batch in zip(rollout.values, batches, strict=True)
        ]
        rollout.advantages = found[0]
        if rollout.in_cells:
            size = rollout.latents.shape[-2:]
            rollout.advantages = cell_advantages(found[0], size, len(rollout.images))
        if rollout.share is not None:
            rollout.advantages = advantage_map(found[0], found[1], rollout.share)
        rollout.mean_spread = finite_std(batches[0], -1).mean()


def rollout_logs(rollout: Rollout, rewards: Mapping[str, Reward]) -> dict[str, torch.Tensor]:
    """Mean, spread inside a group, failures and share of tied groups of every reward; groups
    without a preference; seconds.
    """
    logs = {"skipped_groups": (rollout.advantages == 0).flatten(1).all(-1).sum()}
    for name, values in rollout.scores.items():
        finite = values[values.isfinite()]
        sign = -1.0 if rewards[name].metric.lower_better else 1.0
        spread = values.nanmean(-1, keepdim=True).sub(values).square().nanmean().sqrt()
        logs[f"metric_{name}"] = sign * finite.mean()
        logs[f"spread_{name}"] = spread
        logs[f"failed_{name}"] = (~values.isfinite()).sum()
        logs[f"tied_{name}"] = tied(values).float().mean()
    logs.update({f"seconds_{k}": torch.tensor(v) for k, v in rollout.seconds.items()})
    return logs
