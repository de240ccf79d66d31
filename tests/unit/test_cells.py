"""Groups compared cell by cell: order of cells, what each metric is shown, where advantages go."""

from __future__ import annotations

import pytest
import torch

from gdpo_sr.group.cells import cell_advantages, score_cells, split_cells
from gdpo_sr.rewards.iqa_reward import IQAReward


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates (2, 3, 3, 64, 96) and HR pictures (2, 3, 64, 96)."""
    rng = torch.Generator().manual_seed(0)
    hr = torch.rand(2, 3, 64, 96, generator=rng)
    noise = torch.randn(2, 3, 3, 64, 96, generator=rng)
    return (hr[:, None] + 0.05 * noise).clamp(0, 1), hr


def test_cells_go_row_by_row():
    candidates, hr = pictures()
    cells = split_cells(hr, 32)
    assert cells.shape == (12, 3, 32, 32)
    assert torch.equal(cells[4], hr[0, :, 32:, 32:64])
    assert torch.equal(cells[6], hr[1, :, :32, :32])
    assert torch.equal(split_cells(candidates, 32)[5], candidates[0, :, :, 32:, 64:])


def test_advantages_return_to_where_their_cell_was():
    """A map that is constant inside every cell comes back from the means of its cells."""
    values = torch.arange(2 * 3 * 2 * 3.0).reshape(2, 3, 2, 3)
    latents = values.repeat_interleave(8, -2).repeat_interleave(8, -1)  # (B, G, 16, 24)
    of_cells = split_cells(latents[:, :, None], 8).mean(dim=(-3, -2, -1))
    assert of_cells.shape == (12, 3)
    assert torch.equal(cell_advantages(of_cells, (16, 24), 2), latents)


def test_fidelity_is_of_the_cell_and_perception_of_the_picture():
    candidates, hr = pictures()
    rewards = {
        "psnr_y": IQAReward("psnr_y", "fidelity"),
        "entropy": IQAReward("entropy", "perception"),
    }
    scores = score_cells(rewards, candidates, hr, 32)
    assert list(scores) == list(rewards) and all(s.shape == (12, 3) for s in scores.values())
    own = rewards["psnr_y"](candidates[..., 32:, 32:64], hr[..., 32:, 32:64])
    torch.testing.assert_close(scores["psnr_y"][[4, 10]], own)
    whole = rewards["entropy"](candidates, hr)
    torch.testing.assert_close(scores["entropy"], whole.repeat_interleave(6, 0))


def test_a_change_in_one_cell_changes_no_other():
    candidates, hr = pictures()
    rewards = {"psnr_y": IQAReward("psnr_y", "fidelity")}
    before = score_cells(rewards, candidates, hr, 32)["psnr_y"]
    candidates[0, 1, :, :32, 32:64] += 0.2
    after = score_cells(rewards, candidates.clamp(0, 1), hr, 32)["psnr_y"]
    changed = (before != after).nonzero().tolist()
    assert changed == [[1, 1]] and after[1, 1] < before[1, 1]


@pytest.mark.parametrize("size", [16, 32])
def test_every_latent_element_has_a_cell(size: int):
    advantages = torch.randn(2 * (64 // size) * (96 // size), 3)
    maps = cell_advantages(advantages, (16, 24), 2)
    assert maps.shape == (2, 3, 16, 24)
    torch.testing.assert_close(maps.mean(dim=(0, 2, 3)), advantages.mean(0))
