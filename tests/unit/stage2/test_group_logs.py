"""What is logged of groups, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gdpo_sr.group.sample import Group
from gdpo_sr.group.step import ScoredGroup
from gdpo_sr.stage2.group_logs import group_logs

REWARDS = {
    name: SimpleNamespace(metric=SimpleNamespace(lower_better=False))
    for name in ("close", "bright")
}


def scored_group(shape: tuple[int, ...]) -> ScoredGroup:
    """Scores of two groups of three, and advantages of a shape."""
    nothing = torch.empty(0)
    images = torch.rand(2, 3, 3, 4, 4)
    images[1] = images[1, :1]
    group = Group(nothing, [], images, nothing, nothing, nothing)
    scores = dict.fromkeys(REWARDS, torch.rand(2, 3))
    return ScoredGroup(group, scores, torch.zeros(2), torch.rand(shape))


def test_logs_by_hand():
    """Scores (1, 3, nan) and (2, 2, 2): mean 2, spread sqrt((1 + 1 + 0 + 0 + 0) / 5), one failed,
    one of two tied; one picture has no preference.
    """
    scores = torch.tensor([[1.0, 3.0, torch.nan], [2.0, 2.0, 2.0]])
    lower = SimpleNamespace(metric=SimpleNamespace(lower_better=True))
    rewards = {**REWARDS, "bright": lower}
    scored = scored_group((2, 3))
    scored.scores = dict.fromkeys(rewards, scores)
    scored.advantages = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    logs = {name: float(value) for name, value in group_logs(scored, rewards).items()}
    assert logs["skipped_groups"] == 1 and logs["equal_groups"] == 1
    assert logs["metric_close"] == 2 and logs["metric_bright"] == -2
    assert logs["spread_close"] == pytest.approx(0.4**0.5)
    assert logs["failed_close"] == 1 and logs["tied_close"] == 0.5


def test_a_map_with_one_preference_is_not_skipped():
    scored = scored_group((2, 3, 4, 4))
    scored.advantages.zero_()
    assert int(group_logs(scored, REWARDS)["skipped_groups"]) == 2
    scored.advantages[0, 1, 2, 3] = 1
    assert int(group_logs(scored, REWARDS)["skipped_groups"]) == 1
