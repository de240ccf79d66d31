"""Rewards of features: higher is better, maps, and what the options may not set."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gdpo_sr.config.reward_options import RewardSetOptions
from gdpo_sr.metrics.feature_maps import FEATURE_METRICS
from gdpo_sr.rewards.feature_reward import FeatureReward
from gdpo_sr.rewards.scoring import score_candidates
from gdpo_sr.stage2.build_rewards import build_rewards
from gdpo_sr.types import MetricError, OptionError


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """A blurred and a true candidate (2, 2, 3, 32, 48), HR (2, 3, 32, 48)."""
    hr = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    return torch.stack([F.avg_pool2d(hr, 3, 1, 1), hr], 1), hr


@pytest.mark.parametrize("name", FEATURE_METRICS)
def test_higher_is_better_and_validation_sees_the_metric(name: str):
    candidates, hr = pictures()
    reward = FeatureReward(name, "perception", 0.5)
    maps = score_candidates({name: reward}, candidates, hr)[name]
    assert maps.shape == (2, 2, 16, 24) and reward.gives_maps and reward.weight == 0.5
    assert (maps[:, 0].mean((1, 2)) < maps[:, 1].mean((1, 2))).all()
    torch.testing.assert_close(reward.metric(candidates[:, 0], hr), -maps[:, 0].mean((1, 2)))


def test_candidates_with_a_graph_get_a_gradient():
    candidates, hr = pictures()
    FeatureReward("texture_energy", "perception")(candidates.requires_grad_(), hr).sum().backward()
    assert candidates.grad is not None and candidates.grad[:, 0].abs().max() > 0


def test_options_name_them():
    """Also as the folder of a run records them, with every default."""
    sets = RewardSetOptions.model_validate(
        {"perception": {"tex": {"metric": "texture_energy", "weight": 2.0}}}
    )
    sets = RewardSetOptions.model_validate(sets.model_dump())
    reward = build_rewards(sets, "cpu", torch.Generator())["tex"]
    assert isinstance(reward, FeatureReward)
    assert (reward.name, reward.kind, reward.weight) == ("texture_energy", "perception", 2.0)


@pytest.mark.parametrize("extra", [{"chunk": 2}, {"options": {"window": 3}}, {"random_flip": True}])
def test_options_that_do_not_apply_are_errors(extra: dict):
    sets = RewardSetOptions.model_validate(
        {"perception": {"tex": {"metric": "texture_energy", **extra}}}
    )
    with pytest.raises(OptionError, match=f"reward 'tex': {next(iter(extra))} = .* leave it out"):
        build_rewards(sets, "cpu", torch.Generator())


def test_wrong_shapes_are_named():
    candidates, hr = pictures()
    with pytest.raises(MetricError, match="'texture_energy' needs"):
        FeatureReward("texture_energy", "perception")(candidates, hr[:1])
