"""One stage-2 step of a run: the five functions with the run's options, and the gradient.

Options end here: below there are plain arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from gdpo_sr.advantages import finite_std
from gdpo_sr.config.train_options import TrainOptions
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.group.advantages import (
    group_advantages,
    per_element,
    permute_scores,
    reward_values,
    total_in_spreads,
)
from gdpo_sr.group.errors import Comparison, GroupInputs, at_least_float32, group_inputs
from gdpo_sr.group.hacks import hack_rows
from gdpo_sr.group.sample import Group, Sampling, decoded_group, sample_group
from gdpo_sr.group.score import differentiable_scores, score_group, split_cells
from gdpo_sr.losses.base import GroupLoss, RewardValues
from gdpo_sr.rewards.base import Reward
from gdpo_sr.rewards.texture_share import texture_share
from gdpo_sr.types import LossOutput, SRBatch

Backward = Callable[[torch.Tensor], None]
Gather = Callable[[torch.Tensor], torch.Tensor] | None
"""Rows of a tensor (N, G) of all processes; None: there is one."""


@dataclass
class ScoredGroup:
    """The groups of one batch.

    Attributes:
        group: candidates.
        scores: (B, G), or (B * cells, G), by reward name, higher is better.
        texture: rho_d, (B,) or (B * cells,).
        advantages: (B, G), or (B, G, h, w) in cells; from `GroupStep.set_advantages`.
        values: what they are made of, if the loss needs it.
        hr: (B, 3, H, W) in [0, 1], if the loss goes through the rewards.
    """

    group: Group
    scores: dict[str, torch.Tensor]
    texture: torch.Tensor
    advantages: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    values: RewardValues | None = None
    hr: torch.Tensor | None = None


class GroupStep:
    """The stage-2 step with the options of a run.

    Args:
        network: its UNet carries the policy's adapters; without them it is the reference.
        rewards: by name.
        loss: of groups.
        train: options.
        random: generators by name: "sampling", "update", "control".
    """

    def __init__(
        self,
        network: NoiseAwareGenerator,
        rewards: dict[str, Reward],
        loss: GroupLoss,
        train: TrainOptions,
        random: Any,
    ) -> None:
        self.network, self.rewards, self.loss = network, rewards, loss
        self.train, self.random = train, random
        self.sampling = Sampling(
            train.sampler == "policy",
            train.diversity.steps(train.group_size),
            train.diversity.source == "posterior",
            loss.action_sigma,
            train.group_chunk,
        )
        self.comparison = Comparison(
            "action" if loss.action_sigma else train.update_input,
            train.target,
            train.cell_size is not None,
            loss.same_noise,
            loss.imitates,
            train.reuse_latents or loss.through_rewards,
            loss.needs_drift,
            train.group_chunk,
        )

    def sample(self, batch: SRBatch) -> Group:
        """Candidates of a batch."""
        return sample_group(
            self.network, batch, self.train.group_size, self.random["sampling"], self.sampling
        )

    def score(
        self, group: Group, hr: torch.Tensor, on_host: torch.Tensor | None = None
    ) -> ScoredGroup:
        """Scores of candidates, and the texture of their HR pictures (B, 3, H, W) in [0, 1].

        `on_host` are the same on the CPU: their texture is found while a GPU is still sampling.
        """
        t = self.train
        texture = self._texture(hr if on_host is None else on_host).to(hr.device)
        scores = score_group(self.rewards, group, hr, t.cell_size, t.reward.color_fix)
        if t.control == "permuted_advantages":
            scores = permute_scores(scores, self.random["control"])
        item = ScoredGroup(group, scores, texture)
        item.hr = hr if self.loss.through_rewards else None
        return item

    def _texture(self, hr: torch.Tensor) -> torch.Tensor:
        """rho_d of every picture or cell."""
        cell_size = self.train.cell_size
        return self._share(hr if cell_size is None else split_cells(hr, cell_size))

    def _share(self, pictures: torch.Tensor) -> torch.Tensor:
        """Of perception, in the total reward of each picture (N, 3, H, W)."""
        reward = self.train.reward
        if reward.fixed_perception_weight is not None:
            return pictures.new_full((len(pictures),), reward.fixed_perception_weight)
        x = reward.texture
        return texture_share(pictures, x.patch_size, x.threshold, x.grey)

    def liked_hacks(self, group: Group, hr: torch.Tensor) -> dict[str, float]:
        """Cheap changes of these candidates (`HACKS`) that raise the total reward, and by how many
        of its spreads in a group.
        """
        rng = torch.Generator().manual_seed(0)
        fix = self.train.reward.color_fix
        rows = hack_rows(self.rewards, group, hr, self._share(hr), rng, fix)
        gains = {row.hack: float(row.gains["total"].mean()) for row in rows}
        return {name: gain for name, gain in gains.items() if gain > 0}

    def set_advantages(self, items: list[ScoredGroup], gather: Gather = None) -> None:
        """Advantages of all batches of one update; some need statistics of all of them."""
        scores = {n: torch.cat([item.scores[n] for item in items]) for n in self.rewards}
        texture, a = torch.cat([item.texture for item in items]), self.train.advantage
        found = group_advantages(scores, texture, self.rewards, a.type, a.clip, gather)
        for item, own in zip(items, found.split([len(i.texture) for i in items]), strict=True):
            item.advantages = own
            if self.train.cell_size is not None:
                size = item.group.latents.shape[-2:]
                item.advantages = per_element(own, (size[0], size[1]), len(item.group.prompts))
        if self.loss.needs_values:
            self._set_values(items, gather)

    def _set_values(self, items: list[ScoredGroup], gather: Gather) -> None:
        kind = self.train.advantage.type
        values = [reward_values(i.scores, i.texture, self.rewards, kind) for i in items]
        batch = torch.cat(values)
        spread = finite_std(batch if gather is None else gather(batch), -1).mean()
        for item, own in zip(items, values, strict=True):
            item.values = RewardValues(own, spread)

    def inputs(self, item: ScoredGroup) -> GroupInputs:
        """What the policy is asked about a group."""
        return group_inputs(self.network, item.group, self.random["update"], self.comparison)

    def output(
        self, item: ScoredGroup, inputs: GroupInputs, prediction: torch.Tensor
    ) -> LossOutput:
        """Loss of the policy's answers (B, N, c, h, w), and what to log."""
        values = item.values
        if self.loss.through_rewards:
            values = self._values_of_policy(item, inputs, prediction)
        return self.loss(inputs.errors(prediction), item.advantages, values)

    def _values_of_policy(
        self, item: ScoredGroup, inputs: GroupInputs, prediction: torch.Tensor
    ) -> RewardValues:
        """What the rewards of the policy's own restorations add up to, with its graph; each reward
        in units of its spread in the group.
        """
        if item.hr is None:
            raise ValueError("the loss goes through the rewards, but the group has no hr")
        group, count = item.group, len(item.group.prompts)
        group = decoded_group(self.network, group, inputs.noisy, prediction)
        scores = differentiable_scores(self.rewards, group, item.hr, self.train.reward.color_fix)
        spreads = {name: finite_std(s.detach(), -1) for name, s in scores.items()}
        texture = item.texture.view(count, -1).mean(1)
        total = total_in_spreads(scores, spreads, texture, self.rewards)
        return RewardValues(total, finite_std(total.detach(), -1).mean())

    def __call__(self, item: ScoredGroup) -> LossOutput:
        """Loss of a group with a graph, and what to log."""
        inputs = self.inputs(item)
        return self.output(item, inputs, inputs.predict(self.network))

    def backward(
        self,
        item: ScoredGroup,
        chunk: int,
        backward: Backward,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> LossOutput:
        """As the call, and its gradient, with the activations of `chunk` candidates in memory.

        Predictions without a graph say what each weighs in the loss, then each is made again with a
        graph: the gradient of the whole group up to rounding, in memory that does not grow with G.

        Args:
            chunk: inputs per forward and backward pass.
            backward: adds the gradient of what it is given to those of the parameters.
            autocast: context of the network's precision.
        """
        with autocast():
            inputs = self.inputs(item)
        parts = _parts(inputs.noisy, chunk)
        found = at_least_float32(torch.zeros_like(inputs.noisy))
        device = found.device
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            for part in parts:  # the second pass repeats the dropout of this one
                with autocast():
                    found[part] = inputs.predict(self.network, part)
        leaf = found.requires_grad_()
        output = self.output(item, inputs, leaf)
        [weights] = torch.autograd.grad(output.loss, leaf)
        for part in parts:
            with autocast():
                prediction = inputs.predict(self.network, part)
            backward((prediction * weights[part]).sum())
        return LossOutput(output.loss.detach(), output.logs)


def _parts(noisy: torch.Tensor, chunk: int) -> list[tuple[slice, ...]]:
    """Picture and rows of every chunk of (B, N, ...)."""
    starts = range(0, noisy.shape[1], chunk)
    return [
        (slice(b, b + 1), slice(start, start + chunk))
        for b in range(len(noisy))
        for start in starts
    ]
