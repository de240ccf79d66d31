"""The section `train`: stage 2, Group Direct Preference Optimization. Defaults are the paper's."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from gdpo_sr.config.reward_options import AdvantageOptions, RewardSetOptions
from gdpo_sr.config.run_options import RunOptions
from gdpo_sr.losses import LOSSES, OPTIONS
from gdpo_sr.losses.gdpo_loss import GDPOLossOptions
from gdpo_sr.option_group import OptionGroup


def loss_type(value: Any) -> str | None:
    """Which of the groups a value is for: its `type`, "gdpo" where none is given."""
    if isinstance(value, dict):
        return value.get("type", "gdpo")
    return getattr(value, "type", None)


if TYPE_CHECKING:
    LossOptions = OptionGroup
else:
    _GROUPS = [Annotated[options, Tag(name)] for name, options in OPTIONS.items()]
    LossOptions = Annotated[functools.reduce(operator.or_, _GROUPS), Discriminator(loss_type)]
"""One group of options for every loss of `gdpo_sr.losses`, by `type`."""


class DiversityOptions(OptionGroup):
    """What makes the candidates of a group differ."""

    source: Literal["noise", "t_add", "posterior"] = Field(
        "noise",
        description="noise: each candidate its own (the paper); t_add: one noise, each candidate "
        "its own step, evenly over t_add_range; posterior: each its own draw of the encoder's "
        "posterior as well, for models without noise (t_add -1).",
    )
    t_add_range: tuple[int, int] = Field(
        (100, 400), description="First and last step of source t_add, each in 0 .. 999."
    )

    @model_validator(mode="after")
    def _range_is_a_range(self) -> DiversityOptions:
        low, high = self.t_add_range
        if not 0 <= low < high <= 999:
            raise ValueError(f"t_add_range = [{low}, {high}]: needs 0 <= first < last <= 999")
        return self

    def steps(self, group_size: int) -> tuple[int, ...] | None:
        """The step of each of so many candidates; None: the network's own for all."""
        if self.source != "t_add":
            return None
        low, high = self.t_add_range
        return tuple(round(low + (high - low) * g / (group_size - 1)) for g in range(group_size))


class AlarmOptions(OptionGroup):
    """What a validation warns of: rewards that rise while what is not rewarded gets worse."""

    metric_limit: float = Field(
        0.03, gt=0, description="A held-out metric is worse beyond this share of the base's mean."
    )
    probe_limit: float = Field(
        0.3,
        gt=0,
        description="Edge density and high frequencies change, or the energy at the latent grid's "
        "period grows, beyond this share of the base's.",
    )
    share: float = Field(
        0.5, gt=0, le=1, description="Share of the held-out measures beyond it that is an alarm."
    )
    stop: bool = Field(
        False, description="End the run at an alarm; keep the best validated model as lora_best."
    )


class TrainOptions(RunOptions):
    """One run of stage 2."""

    total_iter: int = Field(1500, ge=1, description="Optimizer updates; the paper: 1500.")
    group_size: int = Field(6, ge=2, le=64, description="Candidates per LR image, G; the paper: 6.")
    group_chunk: int | None = Field(
        None, ge=1, le=64, description="Candidates per forward pass, to save memory; null: all G."
    )
    update_chunk: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Candidates per forward and backward pass of the update, to save memory; same "
        "gradient; null: all of a batch at once.",
    )
    reuse_latents: bool = Field(
        False,
        description="Update with the latents that were sampled, instead of encoding the decoded "
        "candidates (the paper): faster, not the same.",
    )
    update_input: Literal["candidate", "lr"] = Field(
        "candidate",
        description="What the update adds noise to: each candidate's latent (the paper), or the LR "
        "latent with the noises that made the candidates (target x0).",
    )
    target: Literal["noise", "x0"] = Field(
        "noise", description="Error the loss compares: predicted noise (the paper) or clean latent."
    )
    sampler: Literal["reference", "policy"] = Field(
        "reference", description="Who samples the candidates: the reference (the paper) or policy."
    )
    diversity: DiversityOptions = Field(
        default_factory=DiversityOptions, description="What makes candidates differ."
    )
    cell_size: int | None = Field(
        None,
        ge=8,
        multiple_of=8,
        description="Compare candidates inside square cells of so many pixels, each with its own "
        "texture, and weigh every latent element's error by the advantage of its cell (any loss "
        "but multi_pair_dpo); null: whole pictures (the paper).",
    )
    loss: LossOptions = Field(default_factory=GDPOLossOptions, description="Loss of a group.")
    reward: RewardSetOptions = Field(description="Metrics that rank the candidates of a group.")
    advantage: AdvantageOptions = Field(
        default_factory=AdvantageOptions, description="From rewards to advantages."
    )
    alarms: AlarmOptions = Field(
        default_factory=AlarmOptions, description="Signs of reward hacking, at every validation."
    )
    control: Literal["none", "permuted_advantages"] = Field(
        "none", description="permuted_advantages: shuffle advantages in the group, to compare with."
    )

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.update_input == "lr" and self.target != "x0":
            yield (
                f"update_input = lr needs target = x0, not {self.target}: change it, or use "
                "update_input: candidate"
            )
        if self.group_chunk is not None and self.group_chunk > self.group_size:
            yield (
                f"group_chunk = {self.group_chunk} must not exceed "
                f"group_size = {self.group_size}: lower it, or null for the whole group"
            )
        if self.update_chunk is not None and self.update_chunk > self.group_size:
            yield (
                f"update_chunk = {self.update_chunk} must not exceed "
                f"group_size = {self.group_size}: lower it, or null for a whole batch"
            )
        yield from self._loss_problems()
        yield from self._texture_problems()

    def _loss_problems(self) -> Iterator[str]:
        name = self.loss.type
        loss = LOSSES.get(name)
        if self.reuse_latents and loss.acts:
            yield f"reuse_latents = true has no effect with loss.type = {name}: set it to false"
        if loss.through_rewards and self.update_input != "lr":
            yield (
                f"loss.type = {name} needs update_input = lr, not {self.update_input}: the rewards "
                "are of what the policy makes of the LR picture"
            )
        if loss.through_rewards and self.control != "none":
            yield f"control = {self.control} does not go with loss.type = {name}: it has no ranks"
        if self.cell_size is not None and not loss.by_element:
            yield (
                f"cell_size = {self.cell_size} does not go with loss.type = {name}, which "
                "compares whole pictures: set cell_size to null"
            )

    def _texture_problems(self) -> Iterator[str]:
        patch, fixed = self.reward.texture.patch_size, self.reward.fixed_perception_weight
        if self.cell_size is not None and self.cell_size < patch and fixed is None:
            yield (
                f"cell_size = {self.cell_size} is smaller than reward.texture.patch_size = "
                f"{patch}, so a cell's texture cannot be measured: enlarge the cells, or give "
                "reward.fixed_perception_weight"
            )
