"""Rewards from options: every option of a metric reaches it."""

from __future__ import annotations

import pytest
import torch

from gdpo_sr.config.reward_options import RewardOptions
from gdpo_sr.stage2.build_rewards import build_reward

RNG = torch.Generator()


def build(**options: object):
    options = RewardOptions.model_validate({"metric": "psnr_y", **options})
    return build_reward("mine", "fidelity", options, "cpu", RNG)


@pytest.fixture(scope="module")
def group() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 3, 16, 16, generator=rng), torch.rand(2, 3, 16, 16, generator=rng)


def test_direction(group):
    """PSNR is better higher; "lower" turns its sign, and nothing else."""
    usual = build()(*group)
    assert torch.equal(build(direction="higher")(*group), usual) and (usual > 0).all()
    assert torch.equal(build(direction="lower")(*group), -usual)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", None), ("tf32", "tf32"), ("fp16", torch.float16), ("bf16", torch.bfloat16)],
)
def test_precision_of_the_network(precision: str, dtype: torch.dtype | None):
    assert build(precision=precision).metric.precision is dtype


def test_weight_kind_and_chunk(group, monkeypatch):
    """Six candidates, four at a time."""
    reward = build(weight=3.0, chunk=4)
    assert (reward.weight, reward.kind) == (3.0, "fidelity")
    seen, metric = [], reward.metric
    monkeypatch.setattr(
        reward, "metric", lambda part, hr: seen.append(len(part)) or metric(part, hr)
    )
    monkeypatch.setattr(reward.metric, "lower_better", False, raising=False)
    reward(*group)
    assert seen == [4, 2]


def test_options_of_the_metric(group):
    """Without a border of 4 pixels PSNR is that of the middle."""
    candidates, hr = group
    middle = (part[..., 4:-4, 4:-4] for part in group)
    cropped = build(options={"crop_border": 4})(candidates, hr)
    torch.testing.assert_close(cropped, build()(*middle))


def test_flips_are_drawn_by_the_given_source(group):
    state = RNG.get_state()
    build()(*group)
    assert torch.equal(RNG.get_state(), state)
    build(random_flip=True)(*group)
    assert not torch.equal(RNG.get_state(), state)
