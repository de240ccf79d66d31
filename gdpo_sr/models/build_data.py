"""Data sets, degradation and rewards from options: the place where option groups end."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from gdpo_sr.config.schema import Options
from gdpo_sr.data.degradations import RealESRGANDegradation
from gdpo_sr.data.online_dataset import OnlineDataset
from gdpo_sr.data.paired_dataset import PairedDataset
from gdpo_sr.data.validation import make_validation_set
from gdpo_sr.metrics import Metric, create_metric
from gdpo_sr.rewards.base import Reward
from gdpo_sr.rewards.iqa_reward import IQAReward


def build_training_set(options: Options) -> Dataset[dict[str, Any]]:
    """Training pictures by draw number."""
    o = options.datasets.train
    if o.type == "PairedDataset":
        return PairedDataset(
            o.dataroot_gt,
            o.dataroot_lq,
            options.scale,
            o.gt_size,
            options.manual_seed,
            o.use_hflip,
            o.use_rot,
        )
    return OnlineDataset(o.dataroot_gt, o.gt_size, options.manual_seed, o.use_hflip, o.use_rot)


def build_degradation(options: Options) -> RealESRGANDegradation:
    """The online degradation of the training pictures."""
    return RealESRGANDegradation(options.datasets.train.degradation, options.scale)


def build_validation_pairs(options: Options) -> list[dict[str, Any]]:
    """The fixed validation pictures."""
    o = options.datasets.val
    pairs = make_validation_set(
        o.dataroot_gt, o.dataroot_lq, options.scale, o.gt_size, o.seed, o.degradation
    )
    return pairs[: o.max_images]


def build_rewards(options: Options, device: str) -> dict[str, Reward]:
    """Rewards by the name the options file gives them."""
    sets = options.train.reward
    groups = {"fidelity": sets.fidelity, "perception": sets.perception}
    return {
        name: IQAReward(r.metric, kind, r.weight, device, r.options)
        for kind, rewards in groups.items()
        for name, r in rewards.items()
    }


def build_validation_metrics(
    options: Options, rewards: dict[str, Reward], device: str
) -> dict[str, Metric]:
    """The rewarded metrics, then the held-out ones."""
    metrics = {name: reward.metric for name, reward in rewards.items()}
    for name, m in options.val.metrics.items():
        metrics[name] = create_metric(m.metric, device, **m.options)
    return metrics
