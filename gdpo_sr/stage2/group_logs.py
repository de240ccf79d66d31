"""What is logged of groups beside the loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gdpo_sr.advantages import tied
from gdpo_sr.group.step import ScoredGroup
from gdpo_sr.rewards.base import Reward


def group_logs(item: ScoredGroup, rewards: Mapping[str, Reward]) -> dict[str, torch.Tensor]:
    """Mean, spread inside a group, failures and share of tied groups of every reward; pictures
    without a preference, and whose candidates are all the same.
    """
    images = item.group.images
    logs = {
        "skipped_groups": (item.advantages == 0).flatten(1).all(-1).sum(),
        "equal_groups": (images == images[:, :1]).flatten(1).all(-1).sum(),
    }
    for name, values in item.scores.items():
        finite = values.isfinite()
        sign = -1.0 if rewards[name].metric.lower_better else 1.0
        spread = values.nanmean(-1, keepdim=True).sub(values).square().nanmean().sqrt()
        logs[f"metric_{name}"] = sign * torch.where(finite, values, torch.nan).nanmean()
        logs[f"spread_{name}"] = spread
        logs[f"failed_{name}"] = (~finite).sum()
        logs[f"tied_{name}"] = tied(values).float().mean()
    return logs
