"""From scores to advantages with the kinds of rewards, by hand; cells back to where they lie."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gdpo_sr.advantages import group_advantages as z_scores
from gdpo_sr.group.advantages import (
    group_advantages,
    per_element,
    permute_scores,
    reward_values,
)
from gdpo_sr.group.score import split_cells


def reward(kind: str, weight: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(kind=kind, weight=weight)


REWARDS = {"psnr": reward("fidelity"), "musiq": reward("perception")}
SCORES = {"psnr": torch.tensor([[20.0, 30.0]]), "musiq": torch.tensor([[60.0, 50.0]])}
"""Candidate 0 looks better, candidate 1 is closer to the original."""


@pytest.mark.parametrize(("texture", "winner"), [(0.9, 0), (0.1, 1)])
def test_texture_weighs_perception_and_smooth_area_fidelity(texture: float, winner: int):
    """R = (1 - rho_d) (0, 1) + rho_d (1, 0): at rho_d = 0.9 (0.9, 0.1), so A = (+-) 0.7071."""
    share = torch.tensor([texture])
    values = reward_values(SCORES, share, REWARDS)
    torch.testing.assert_close(values, torch.tensor([[texture, 1 - texture]]))
    advantages = group_advantages(SCORES, share, REWARDS)
    expected = torch.tensor([[0.7071068, -0.7071068]]) * (1 if winner == 0 else -1)
    torch.testing.assert_close(advantages, expected)


def test_decoupled_shares_by_hand():
    """z of both rewards is (-+)0.70710 (std 7.0711 + 1e-4). Shares at rho_d = 0.75: fidelity 0.25,
    of which psnr has 1 / 4 and ssim 3 / 4, perception 0.75: ssim as psnr gives
    -0.25 z + 0.75 z = 0.5 z for candidate 0 = 0.35355.
    """
    rewards = {**REWARDS, "ssim": reward("fidelity", 3.0)}
    scores = {**SCORES, "ssim": torch.tensor([[0.1, 10.1]])}
    values = reward_values(scores, torch.tensor([0.75]), rewards, "decoupled")
    torch.testing.assert_close(values, torch.tensor([[0.35355, -0.35355]]), rtol=1e-4, atol=1e-4)
    alone = reward_values({**scores, "ssim": torch.tensor([[5.0, 5.0]])}, torch.tensor([0.0]),
                          rewards, "decoupled")  # fmt: skip
    torch.testing.assert_close(alone, torch.tensor([[-0.17678, 0.17678]]), rtol=1e-4, atol=1e-4)


def test_weights_inside_a_kind_and_rewards_that_only_report():
    """(0, 1, 0.5) x 1 and (1, 0, 0) x 3: mean (0.75, 0.25, 0.125); weight 0 is left out."""
    rewards = {
        "a": reward("fidelity"),
        "b": reward("fidelity", 3.0),
        "c": reward("perception", 0.0),
    }
    scores = {
        "a": torch.tensor([[1.0, 3.0, 2.0]]),
        "b": torch.tensor([[7.0, 5.0, 5.0]]),
        "c": torch.tensor([[torch.nan, 1.0, 2.0]]),
    }
    values = reward_values(scores, torch.tensor([0.0]), rewards)
    torch.testing.assert_close(values, torch.tensor([[0.75, 0.25, 0.125]]))


def test_the_batch_is_gathered_for_its_statistics():
    """batch_std: (-5, 5) over the std of all rows, its own and those of another process."""
    values = torch.tensor([[0.0, 1.0]])
    other = torch.tensor([[0.0, 9.0]])
    found = group_advantages(
        {"psnr": SCORES["psnr"]},
        torch.tensor([0.0]),
        {"psnr": REWARDS["psnr"]},
        "batch_std",
        gather=lambda own: torch.cat([own, other]),
    )
    spread = torch.cat([values, other]).std() + 1e-4
    torch.testing.assert_close(found, torch.tensor([[-0.5, 0.5]]) / spread)


def test_advantages_are_clipped():
    found = group_advantages(SCORES, torch.tensor([0.9]), REWARDS, clip=0.5)
    torch.testing.assert_close(found, torch.tensor([[0.5, -0.5]]))


def test_the_control_moves_all_scores_of_a_candidate_together():
    values = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
    shuffled = permute_scores({"a": values, "b": 2 * values}, torch.Generator().manual_seed(1))
    assert torch.equal(shuffled["b"], 2 * shuffled["a"])
    assert torch.equal(shuffled["a"].sort(-1).values, values.sort(-1).values)
    assert (shuffled["a"] != values).float().mean() > 0.7


def test_advantages_return_to_where_their_cell_was():
    """A map that is constant inside every cell comes back from the means of its cells."""
    values = torch.arange(2 * 3 * 2 * 3.0).reshape(2, 3, 2, 3)
    latents = values.repeat_interleave(8, -2).repeat_interleave(8, -1)  # (B, G, 16, 24)
    of_cells = split_cells(latents[:, :, None], 8).mean(dim=(-3, -2, -1))
    assert of_cells.shape == (12, 3)
    assert torch.equal(per_element(of_cells, (16, 24), 2), latents)


@pytest.mark.parametrize("size", [16, 32])
def test_every_latent_element_has_a_cell(size: int):
    advantages = torch.randn(2 * (64 // size) * (96 // size), 3)
    maps = per_element(advantages, (16, 24), 2)
    assert maps.shape == (2, 3, 16, 24)
    torch.testing.assert_close(maps.mean(dim=(0, 2, 3)), advantages.mean(0))


def test_rows_have_mean_0():
    scores = {"psnr": torch.rand(4, 6, generator=torch.Generator().manual_seed(2))}
    found = group_advantages(scores, torch.zeros(4), {"psnr": REWARDS["psnr"]})
    assert found.sum(-1).abs().max() < 1e-5
    torch.testing.assert_close(found, z_scores(scores["psnr"]), rtol=1e-4, atol=1e-4)
