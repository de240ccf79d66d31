"""Rewards: (B, G) in the right order and sign, and a failure costs one score only."""

from __future__ import annotations

import pytest
import torch

from gdpo_sr.metrics import create_metric
from gdpo_sr.rewards.base import check_shapes
from gdpo_sr.rewards.iqa_reward import IQAReward, flip_groups
from gdpo_sr.rewards.scoring import score_candidates
from gdpo_sr.types import MetricError, OptionError


@pytest.fixture(scope="module")
def group() -> tuple[torch.Tensor, torch.Tensor]:
    """Two photos of noise-free blobs, (2, 3, 128, 128), with three candidates each, noisier with g
    and b.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 8, 8, generator=generator)
    hr = torch.nn.functional.interpolate(coarse, size=(128, 128), mode="bicubic").clamp(0, 1)
    strength = torch.tensor([[0.02, 0.05, 0.1], [0.03, 0.08, 0.2]]).view(2, 3, 1, 1, 1)
    noise = torch.randn(2, 3, 3, 128, 128, generator=generator)
    return (hr[:, None] + strength * noise).clamp(0, 1), hr


class Mean:
    """Mean of a candidate; raises if it gets one whose first pixel is zero."""

    name, weight, kind = "mean", 1.0, "perception"

    def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        if (candidates[..., 0, 0, 0] == 0).any():
            raise RuntimeError("zero pixel")
        return candidates.mean((2, 3, 4))


def test_each_candidate_meets_its_own_photo(group):
    candidates, hr = group
    scores = IQAReward("psnr_y", "fidelity")(candidates, hr)
    metric = create_metric("psnr_y")
    expected = [
        [float(metric(candidates[b, g][None], hr[b][None])) for g in range(3)] for b in range(2)
    ]
    assert torch.allclose(scores, torch.tensor(expected), atol=1e-5)
    assert (scores[:, :-1] > scores[:, 1:]).all()


def test_sign_is_turned_where_lower_is_better(group):
    candidates, hr = group
    assert torch.equal(
        IQAReward("niqe", "perception")(candidates, hr).flatten(),
        -create_metric("niqe")(candidates.flatten(0, 1)),
    )


@pytest.mark.parametrize("name", ["psnr_y", "piqe"])
@pytest.mark.parametrize("chunk", [1, 4])
def test_chunk_and_group_do_not_change_scores(group, name: str, chunk: int):
    candidates, hr = group
    whole = IQAReward(name, "perception")(candidates, hr)
    assert torch.equal(IQAReward(name, "perception", chunk=chunk)(candidates, hr), whole)
    assert torch.equal(IQAReward(name, "perception")(candidates[:, 1:2], hr), whole[:, 1:2])


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"kind": "beauty"}, "kind 'beauty'"),
        ({"kind": "fidelity", "weight": -1.0}, "weight -1.0"),
        ({"kind": "fidelity", "chunk": 0}, "chunk 0"),
    ],
)
def test_bad_options_are_named(options: dict, reason: str):
    with pytest.raises(OptionError, match=f"'psnr_y': {reason}"):
        IQAReward("psnr_y", **options)


def test_wrong_shape_names_the_reward(group):
    candidates, hr = group
    with pytest.raises(MetricError, match="reward 'psnr_y' needs"):
        IQAReward("psnr_y", "fidelity")(candidates, hr[:1])
    with pytest.raises(MetricError, match="reward 'mean' needs"):
        score_candidates({"mean": Mean()}, candidates[0], hr)


@pytest.mark.parametrize(
    ("candidates", "hr"),
    [
        ((2, 3, 1, 8, 8), (2, 1, 8, 8)),
        ((2, 3, 3, 8), (2, 3, 8)),
        ((2, 3, 3, 8, 8, 8), (2, 3, 8, 8, 8)),
        ((2, 3, 3, 8, 8), (2, 3, 8, 9)),
        ((2, 3, 3, 8, 8), (3, 3, 8, 8)),
    ],
)
def test_shapes_that_are_refused(candidates: tuple, hr: tuple):
    """Channels, dimensions, size and count."""
    with pytest.raises(MetricError, match="reward 'psnr_y' needs"):
        check_shapes("psnr_y", torch.zeros(candidates), torch.zeros(hr))


def test_weights():
    """1 unless it is given; 0 only reports."""
    assert IQAReward("psnr_y", "fidelity").weight == 1
    assert IQAReward("psnr_y", "fidelity", weight=0.0).weight == 0


def test_each_group_is_flipped_with_its_picture_or_not_at_all(group):
    """One draw a group, below 0.5 turns it upside down."""
    candidates, hr = (part.repeat(6, *[1] * (part.ndim - 1)) for part in group)
    found, reference = flip_groups(candidates, hr, torch.Generator().manual_seed(0))
    flips = torch.rand(12, generator=torch.Generator().manual_seed(0)) < 0.5
    assert flips.any() and not flips.all()
    for b, flipped in enumerate(flips):
        rows = slice(None) if not flipped else torch.arange(127, -1, -1)
        assert torch.equal(found[b], candidates[b][..., rows, :])
        assert torch.equal(reference[b], hr[b][..., rows, :])


def test_a_reward_scores_the_flipped_groups(group):
    """Its metric here: the first pixel of a candidate less that of its picture."""

    def first_pixels(images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        return images[:, 0, 0, 0] - references[:, 0, 0, 0]

    first_pixels.lower_better = False
    reward = IQAReward("psnr_y", "fidelity", flip_rng=torch.Generator().manual_seed(0))
    reward.metric = first_pixels
    candidates, hr = flip_groups(*group, torch.Generator().manual_seed(0))
    expected = candidates[:, :, 0, 0, 0] - hr[:, None, 0, 0, 0]
    torch.testing.assert_close(reward(*group), expected)
    assert not reward.gives_maps


def test_score_candidates_by_name(group):
    candidates, hr = group
    scores = score_candidates({"p": IQAReward("psnr_y", "fidelity"), "m": Mean()}, candidates, hr)
    assert {name: tuple(value.shape) for name, value in scores.items()} == {
        "p": (2, 3),
        "m": (2, 3),
    }


def test_failure_costs_one_score(group):
    candidates, hr = group[0].clamp(min=0.01), group[1]
    expected = Mean()(candidates, hr)
    candidates[1, 2, 0, 0, 0] = 0
    scores = score_candidates({"mean": Mean()}, candidates, hr)["mean"]
    assert scores[1, 2].isnan()
    expected[1, 2] = torch.nan
    assert torch.allclose(scores, expected, equal_nan=True)


def test_metric_that_fails_for_one_candidate(group):
    candidates, hr = group[0].clone(), group[1]
    candidates[0, 1] = torch.nan
    scores = score_candidates({"psnr_y": IQAReward("psnr_y", "fidelity")}, candidates, hr)["psnr_y"]
    assert scores.isnan().nonzero().tolist() == [[0, 1]]


def test_reward_of_wrong_shape_is_named(group):
    with pytest.raises(MetricError, match=r"'flat' returned shape \(6,\).*\(2, 3\)"):
        score_candidates({"flat": lambda candidates, hr: torch.zeros(6)}, *group)
