"""Rewards and loss from options: the place where their option groups end."""

from __future__ import annotations

import torch

from gdpo_sr.config.reward_options import RewardOptions, RewardSetOptions
from gdpo_sr.losses import LOSSES, GroupLoss
from gdpo_sr.metrics.feature_maps import FEATURE_METRICS
from gdpo_sr.metrics.registry import TF32
from gdpo_sr.option_group import OptionGroup
from gdpo_sr.rewards.base import Kind, Reward
from gdpo_sr.rewards.feature_reward import FeatureReward
from gdpo_sr.rewards.iqa_reward import IQAReward
from gdpo_sr.rewards.registry import find_reward, load_user_modules
from gdpo_sr.rewards.user_reward import UserReward
from gdpo_sr.types import OptionError

PRECISIONS = {"float32": None, TF32: TF32, "fp16": torch.float16, "bf16": torch.bfloat16}


def build_rewards(sets: RewardSetOptions, device: str, rng: torch.Generator) -> dict[str, Reward]:
    """Rewards by the name the options file gives them; `rng` is for those that flip groups."""
    load_user_modules(sets.user_modules)
    groups: dict[Kind, dict[str, RewardOptions]] = {
        "fidelity": sets.fidelity,
        "perception": sets.perception,
    }
    return {
        name: build_reward(name, kind, options, device, rng)
        for kind, rewards in groups.items()
        for name, options in rewards.items()
    }


def build_reward(
    name: str, kind: Kind, options: RewardOptions, device: str, rng: torch.Generator
) -> Reward:
    """One reward: a metric, or a function of the user's."""
    o = options
    if o.reward is not None:
        function = find_reward(o.reward, o.options)
        return UserReward(function, name, kind, o.weight, o.direction == "lower")
    if o.metric in FEATURE_METRICS:
        _only_weighed(name, o)
        return FeatureReward(o.metric, kind, o.weight, device)
    flip_rng = rng if o.random_flip else None
    reward = IQAReward(o.metric, kind, o.weight, device, o.options, o.chunk, flip_rng)
    reward.metric.precision = PRECISIONS[o.precision]
    if o.direction != "auto":
        reward.metric.lower_better = o.direction == "lower"
    return reward


def _only_weighed(name: str, options: RewardOptions) -> None:
    """Raise OptionError if anything but the weight is set of a metric of features."""
    usual = RewardOptions(metric=options.metric)
    for key in ("options", "direction", "chunk", "precision", "random_flip"):
        if (value := getattr(options, key)) != getattr(usual, key):
            raise OptionError(
                f"reward '{name}': {key} = {value} is not for {options.metric}: leave it out"
            )


def build_loss(options: OptionGroup) -> GroupLoss:
    """The loss that `type` names."""
    return LOSSES.get(options.type)(**options.model_dump(exclude={"type"}))
