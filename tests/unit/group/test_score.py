"""Scores of groups: what each reward is shown, of whole pictures and cell by cell."""

from __future__ import annotations

import pytest
import torch

from gdpo_sr.group.sample import Group
from gdpo_sr.group.score import (
    as_given_out,
    differentiable_scores,
    score_group,
    split_cells,
)
from gdpo_sr.rewards.iqa_reward import IQAReward
from gdpo_sr.types import MetricError


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates (2, 3, 3, 64, 96) and HR pictures (2, 3, 64, 96)."""
    rng = torch.Generator().manual_seed(0)
    hr = torch.rand(2, 3, 64, 96, generator=rng)
    noise = torch.randn(2, 3, 3, 64, 96, generator=rng)
    return (hr[:, None] + 0.05 * noise).clamp(0, 1), hr


def group_of(candidates: torch.Tensor, lr: torch.Tensor | None = None) -> Group:
    """A group of which nothing but pictures is looked at; LR pictures are in [-1, 1]."""
    nothing = torch.empty(0)
    return Group(nothing if lr is None else lr, [], candidates, nothing, nothing, nothing)


def test_cells_go_row_by_row():
    candidates, hr = pictures()
    cells = split_cells(hr, 32)
    assert cells.shape == (12, 3, 32, 32)
    assert torch.equal(cells[4], hr[0, :, 32:, 32:64])
    assert torch.equal(cells[6], hr[1, :, :32, :32])
    assert torch.equal(split_cells(candidates, 32)[5], candidates[0, :, :, 32:, 64:])


def test_fidelity_is_of_the_cell_and_perception_of_the_picture():
    candidates, hr = pictures()
    rewards = {
        "psnr_y": IQAReward("psnr_y", "fidelity"),
        "entropy": IQAReward("entropy", "perception"),
    }
    scores = score_group(rewards, group_of(candidates), hr, 32)
    assert list(scores) == list(rewards) and all(s.shape == (12, 3) for s in scores.values())
    own = rewards["psnr_y"](candidates[..., 32:, 32:64], hr[..., 32:, 32:64])
    torch.testing.assert_close(scores["psnr_y"][[4, 10]], own)
    whole = rewards["entropy"](candidates, hr)
    torch.testing.assert_close(scores["entropy"], whole.repeat_interleave(6, 0))


def test_a_change_in_one_cell_changes_no_other():
    candidates, hr = pictures()
    rewards = {"psnr_y": IQAReward("psnr_y", "fidelity")}
    before = score_group(rewards, group_of(candidates), hr, 32)["psnr_y"]
    candidates[0, 1, :, :32, 32:64] += 0.2
    after = score_group(rewards, group_of(candidates.clamp(0, 1)), hr, 32)["psnr_y"]
    changed = (before != after).nonzero().tolist()
    assert changed == [[1, 1]] and after[1, 1] < before[1, 1]


def test_whole_pictures_in_the_order_of_the_group():
    candidates, hr = pictures()
    scores = score_group({"psnr_y": IQAReward("psnr_y", "fidelity")}, group_of(candidates), hr)
    for b in range(2):
        for g in range(3):
            own = IQAReward("psnr_y", "fidelity")(candidates[b, g][None, None], hr[b : b + 1])
            torch.testing.assert_close(scores["psnr_y"][b, g], own[0, 0])


@pytest.mark.parametrize("cell_size", [None, 32])
@pytest.mark.parametrize("kind", ["fidelity", "perception"])
def test_rewards_see_float32_outside_autocast(kind: str, cell_size: int | None):
    """Whoever wrote them; half-precision pictures and an autocast region around notwithstanding."""
    seen = []

    class Own:
        def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
            product = candidates.flatten(1) @ candidates.flatten(1).T
            seen.append((candidates.dtype, hr.dtype, product.dtype))
            return candidates.mean((2, 3, 4))

    own = Own()
    own.kind = kind
    candidates, hr = pictures()
    with torch.autocast("cpu", torch.bfloat16):
        score_group({"own": own}, group_of(candidates.bfloat16()), hr.bfloat16(), cell_size)
    assert seen == [(torch.float32,) * 3]


def test_the_colour_fix_is_computed_in_float32():
    """Half the precision would err by 1.5 / 255; each candidate gets its own picture's colours."""
    candidates, hr = pictures()
    candidates, lr = candidates[:, :2], hr.roll(1, 0) * 1.2 - 0.9
    group = group_of(candidates, lr)
    assert torch.equal(as_given_out(group, "none"), candidates)
    fixed = as_given_out(group, "adain")
    colours = lr / 2 + 0.5
    for b in range(2):
        means = fixed[b].mean((-2, -1))
        torch.testing.assert_close(means, colours[b].mean((-2, -1)).expand(2, 3), atol=2e-3, rtol=0)
    seen = []

    class Own:
        kind = "fidelity"

        def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
            seen.append(candidates)
            return candidates.mean((2, 3, 4))

    with torch.autocast("cpu", torch.bfloat16):
        score_group({"own": Own()}, group, hr, color_fix="wavelet")
    assert torch.equal(seen[0], as_given_out(group, "wavelet"))
    assert 0 <= seen[0].min() and seen[0].max() <= 1


class Given:
    """A reward that gives what it was made with."""

    gives_maps = True

    def __init__(self, scores: torch.Tensor, kind: str = "perception") -> None:
        self.scores, self.kind = scores, kind

    def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        assert candidates.shape[-2:] == (64, 96)
        return self.scores


@pytest.mark.parametrize("kind", ["fidelity", "perception"])
def test_cells_get_their_part_of_a_map(kind: str):
    """A map of 4 x 6 over 2 x 3 cells: the first cell is the mean of 0, 1, 6 and 7; the map is of
    the whole picture, of whatever kind the reward is.
    """
    candidates, hr = pictures()
    maps = torch.arange(24.0).view(4, 6).expand(2, 3, 4, 6).clone()
    maps[1, 2] += 100
    scores = score_group({"map": Given(maps, kind)}, group_of(candidates), hr, 32)["map"]
    assert scores.shape == (12, 3)
    assert scores[:6, 0].tolist() == [3.5, 5.5, 7.5, 15.5, 17.5, 19.5]
    assert scores[6:, 2].tolist() == [103.5, 105.5, 107.5, 115.5, 117.5, 119.5]
    whole = score_group({"map": Given(maps, kind)}, group_of(candidates), hr)["map"]
    assert whole.shape == (2, 3) and whole[0, 0] == 11.5 and whole[1, 2] == 111.5


def test_a_map_that_fails_costs_one_candidate_its_scores():
    candidates, hr = pictures()
    candidates[0, 1] = 0

    class Fails(Given):
        def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
            if (candidates == 0).flatten(2).all(-1).any():
                raise RuntimeError("black")
            return candidates.mean(2)

    scores = score_group({"map": Fails(torch.empty(0))}, group_of(candidates), hr, 32)["map"]
    assert scores.isnan().nonzero().tolist() == [[cell, 1] for cell in range(6)]


def test_scores_of_another_shape_are_an_error():
    candidates, hr = pictures()
    with pytest.raises(MetricError, match=r"must return \(B, G\) = \(2, 3\), or a map"):
        score_group({"map": Given(torch.zeros(2, 3, 4))}, group_of(candidates), hr, 32)


class Product:
    """A reward whose scores show how it was computed: inputs' types, product's type, and sides."""

    weight = 1.0

    def __init__(self, kind: str = "fidelity") -> None:
        self.kind, self.seen = kind, []

    def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        product = candidates.flatten(1) @ candidates.flatten(1).T
        self.seen.append((candidates.dtype, hr.dtype, product.dtype, candidates.shape[-2:]))
        return candidates.mean((2, 3, 4))


def test_a_reward_that_says_nothing_of_maps_gets_cells_or_pictures_by_its_kind():
    candidates, hr = pictures()
    rewards = {"cut": Product("fidelity"), "whole": Product("perception")}
    scores = score_group(rewards, group_of(candidates), hr, 32)
    assert [tuple(r.seen[0][-1]) for r in rewards.values()] == [(32, 32), (64, 96)]
    assert all(s.shape == (12, 3) for s in scores.values())


def test_scores_with_a_graph_are_of_float32_and_of_what_has_a_weight():
    candidates, hr = pictures()
    rewards = {"own": Product(), "reports": Product()}
    rewards["reports"].weight = 0.0
    candidates = candidates.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        scores = differentiable_scores(rewards, group_of(candidates), hr.bfloat16())
    assert list(scores) == ["own"] and not rewards["reports"].seen
    assert rewards["own"].seen[0][:3] == (torch.float32,) * 3
    assert scores["own"].requires_grad
