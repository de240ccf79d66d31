"""Scores to advantages: identities of the group z-score, ties, missing scores, the attribute-aware
reward against recordings, and the reward-decoupled normalisation by hand.
"""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from gdpo_sr.advantages import (
    ESTIMATORS,
    advantages_of,
    attribute_aware_reward,
    batch_std_advantages,
    decoupled_advantages,
    decoupled_totals,
    finite_mean,
    group_advantages,
    mean_only_advantages,
    normalize_min_max,
    permutation_within_groups,
    standardize,
    tied,
    weighted_mean,
)

NAN = math.nan
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "decoupled_advantages.py"
REWARDS = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))


def test_rows_sum_to_zero_with_unit_spread():
    advantages = group_advantages(REWARDS)
    assert advantages.sum(-1).abs().max() < 1e-5
    torch.testing.assert_close(advantages.std(-1), torch.ones(5))


def test_scale_and_shift_do_not_matter():
    torch.testing.assert_close(
        group_advantages(3.5 * REWARDS - 2), group_advantages(REWARDS), atol=1e-5, rtol=0
    )


def test_the_order_of_rewards_is_kept():
    assert torch.equal(group_advantages(REWARDS).argsort(-1), REWARDS.argsort(-1))


@pytest.mark.parametrize("size, largest", [(2, 0.7071), (4, 1.5), (6, 2.0412), (8, 2.4749)])
def test_largest_advantage(size: int, largest: float):
    """One candidate that differs from all others gets (G - 1) / sqrt(G)."""
    rewards = torch.zeros(1, size)
    rewards[0, 0] = 1
    advantages = group_advantages(rewards)
    assert float(advantages.abs().max()) == pytest.approx(largest, abs=5e-5)
    assert float(advantages[0, 0]) == pytest.approx((size - 1) / size**0.5, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 1 / 3, 1e6])
def test_a_tied_group_has_no_preference(value: float):
    """Beside a group that is not tied, which keeps its advantages."""
    rewards = torch.stack([torch.full((6,), value), REWARDS[0]])
    advantages = group_advantages(rewards)
    assert torch.equal(advantages[0], torch.zeros(6))
    assert torch.equal(advantages[1], group_advantages(REWARDS[:1])[0])


def test_a_group_of_one_has_no_preference():
    assert torch.equal(group_advantages(torch.tensor([[3.0]])), torch.zeros(1, 1))


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_a_missing_reward_gets_zero_and_does_not_count(bad: float):
    rewards = torch.tensor([[1.0, bad, 2.0, 4.0]])
    advantages = group_advantages(rewards)
    expected = group_advantages(torch.tensor([[1.0, 2.0, 4.0]]))
    assert advantages[0, 1] == 0
    torch.testing.assert_close(advantages[0, [0, 2, 3]], expected[0])


def test_a_group_without_rewards():
    assert torch.equal(group_advantages(torch.full((2, 4), NAN)), torch.zeros(2, 4))


def test_tied():
    scores = torch.tensor([[1.0, 1.0, NAN], [1.0, 2.0, NAN], [1.0, NAN, NAN], [NAN, NAN, NAN]])
    assert tied(scores).flatten().tolist() == [True, False, True, True]


def test_min_max():
    scores = torch.tensor([[1.0, 3.0, 2.0], [7.0, 7.0, 7.0], [1.0, NAN, 3.0]])
    expected = torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 0.0], [0.0, NAN, 1.0]])
    torch.testing.assert_close(normalize_min_max(scores), expected, equal_nan=True)


def test_the_mean_of_what_is_finite():
    values = torch.tensor([[3.0, NAN], [1.0, 2.0], [NAN, NAN]])
    assert finite_mean(values, -1).flatten().tolist() == [3.0, 1.5, 0.0]


def test_a_tiny_spread_is_still_divided_by_more():
    """0 and 1e-8: std 7.0711e-9, so A = 5e-9 / (7.0711e-9 + 1e-8) = 0.29289."""
    advantages = group_advantages(torch.tensor([[0.0, 1e-8]], dtype=torch.float64))
    expected = torch.tensor([[-0.29289, 0.29289]], dtype=torch.float64)
    torch.testing.assert_close(advantages, expected, rtol=1e-4, atol=0)


def test_a_metric_that_fails_on_a_whole_group_counts_as_0():
    """Beside one that says 0 and 1: the mean is 0 and 0.5."""
    scores = [torch.tensor([[5.0, 9.0]]), torch.full((1, 2), NAN)]
    assert weighted_mean(scores).tolist() == [[0.0, 0.5]]


def test_standardize_by_hand():
    """1, 2, 3, 6: mean 3, std sqrt((4 + 1 + 0 + 9) / 3) = 2.1602."""
    expected = torch.tensor([[-2.0, -1.0], [0.0, 3.0]]) / (2.160247 + 1e-4)
    torch.testing.assert_close(standardize(torch.tensor([[1.0, 2.0], [3.0, 6.0]])), expected)


def test_clipping_by_hand():
    """Distances from the mean of -+0.5 are limited to 0.3 on both sides; those of 0.2 stay."""
    rewards = torch.tensor([[0.0, 1.0], [0.1, 0.5]])
    clipped = advantages_of(rewards, "mean_only", clip=0.3)
    torch.testing.assert_close(clipped, torch.tensor([[-0.3, 0.3], [-0.2, 0.2]]))


def test_weighted_mean():
    """Normalised 0, 1 and 1, 0 with weights 3 and 1."""
    scores = [torch.tensor([[5.0, 9.0]]), torch.tensor([[70.0, 60.0]])]
    torch.testing.assert_close(weighted_mean(scores, [3, 1]), torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(weighted_mean(scores), torch.tensor([[0.5, 0.5]]))


def test_attribute_aware_reward_by_hand():
    """rho_d = 0.25: 0.75 fidelity + 0.25 perception."""
    fr, nr = torch.tensor([[20.0, 30.0, 25.0]]), torch.tensor([[9.0, 5.0, 5.0]])
    reward = attribute_aware_reward([fr], [nr], torch.tensor([0.25]))
    torch.testing.assert_close(reward, torch.tensor([[0.25, 0.75, 0.375]]))


def test_one_kind_of_reward_is_enough():
    fr, texture = REWARDS, torch.full((5,), 0.3)
    for reward in (
        attribute_aware_reward([fr], [], texture),
        attribute_aware_reward([], [fr], texture),
    ):
        torch.testing.assert_close(group_advantages(reward), group_advantages(fr))


def test_a_failed_metric_does_not_spoil_the_others():
    """NR fails on all of picture 0 and on one candidate of picture 1."""
    fr, nr = REWARDS[:2], REWARDS[2:4].clone()
    nr[0], nr[1, 2] = NAN, NAN
    reward = attribute_aware_reward([fr], [nr], torch.tensor([0.5, 0.5]))
    advantages = group_advantages(reward)
    assert advantages.isfinite().all()
    torch.testing.assert_close(advantages[0], group_advantages(fr)[0])
    assert advantages[1, 2] == 0 and (advantages[1] != 0).sum() == 5


def recorded_advantages(golden, tag: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours from the recorded scores, and the recorded ones."""
    arrays = np.load(golden("reward.npz"))
    psnr, musiq, maniqa, texture, expected = (
        torch.from_numpy(arrays[f"{tag}__{key}"])
        for key in ("psnr", "musiq", "maniqa", "det", "adv")
    )
    shape = expected.shape
    scores = [values.view(shape) for values in (psnr, musiq, maniqa)]
    reward = attribute_aware_reward(scores[:1], scores[1:], texture)
    return group_advantages(reward), expected


@pytest.mark.parametrize(
    "tag",
    [f"b{b}g{g}" for b in (1, 2, 3) for g in (2, 4, 6)] + ["partial_tie", "perfect_psnr", "cancel"],
)
def test_recorded_advantages(golden, tag: str):
    ours, expected = recorded_advantages(golden, tag)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "tag", ["tie_musiq", "tie_musiq_detail0", "tie_psnr", "tie_one_of_two", "g1"]
)
def test_where_the_released_code_gives_nan(golden, tag: str):
    """A tied metric counts as 0 for all; rows that are not tied equal the recording."""
    ours, expected = recorded_advantages(golden, tag)
    assert ours.isfinite().all() and ours.sum(-1).abs().max() < 1e-5
    assert expected.isnan().any()
    fine = expected.isfinite().all(-1)
    torch.testing.assert_close(ours[fine], expected[fine], atol=1e-5, rtol=0)


def test_decoupled_keeps_combinations_apart():
    """NVIDIA's table: two binary rewards, totals (0, 1) in group 0 and (0, 2) in group 1.

    GRPO z-scores the sum: +-0.7071 for both. Decoupled: +-0.7071 and +-1.4142 before the batch
    step, which divides both by the same spread.
    """
    rewards = torch.tensor([[[0.0, 1.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]]])
    grpo = group_advantages(rewards.sum(0))
    torch.testing.assert_close(grpo[0], grpo[1])
    ours = decoupled_advantages(rewards, [1.0, 1.0])
    torch.testing.assert_close(ours[1], 2 * ours[0])

    before = torch.tensor([[-1.0, 1.0], [-2.0, 2.0]]) * 0.5 / (0.5**0.5 + 1e-4)
    torch.testing.assert_close(ours, before / (before.std() + 1e-4))


def test_decoupled_of_a_single_group_falls_back():
    """The batch step maps +-1.4142 to +-0.7071: statistics must span several groups."""
    rewards = torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]])
    expected = torch.tensor([[-1.0, 1.0]]) * 0.5**0.5
    torch.testing.assert_close(
        decoupled_advantages(rewards, [1.0, 1.0]), expected, atol=1e-3, rtol=0
    )


def test_decoupled_weights():
    """Weight 0 leaves a reward out; (2, 1) is not (1, 2)."""
    rewards = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1))
    only_first = decoupled_advantages(rewards[:1], [1.0])
    torch.testing.assert_close(decoupled_advantages(rewards, [1.0, 0.0]), only_first)
    weighted = [decoupled_advantages(rewards, torch.tensor(w)) for w in ([2.0, 1.0], [1.0, 2.0])]
    assert not torch.allclose(*weighted)


def test_decoupled_is_safe_with_ties_and_missing_rewards():
    rewards = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1))
    rewards[0, 0] = 5.0  # a tie
    rewards[:, 1, 2] = NAN  # no reward at all
    rewards[1, 2, 0] = NAN  # one of two
    advantages = decoupled_advantages(rewards, [1.0, 1.0])
    assert advantages.isfinite().all()
    assert advantages[1, 2] == 0 and advantages[2, 0] != 0
    only_second = decoupled_advantages(rewards[1:], [1.0])
    assert torch.equal(advantages[0].argsort(), only_second[0].argsort())


def test_decoupled_of_ties_alone():
    assert torch.equal(decoupled_advantages(torch.ones(2, 3, 4), [1.0, 1.0]), torch.zeros(3, 4))


def test_decoupled_weights_of_each_picture():
    """(K, B) weights: picture 0 listens to the first reward alone, picture 1 to the second."""
    rewards = torch.rand(2, 2, 4, generator=torch.Generator().manual_seed(1))
    totals = decoupled_totals(rewards, [[1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(totals[0], decoupled_totals(rewards[:1], [1.0])[0])
    torch.testing.assert_close(totals[1], decoupled_totals(rewards[1:], [1.0])[1])


def test_statistics_of_the_whole_batch():
    """Two halves, standardised with both, are what one batch gives."""
    rewards = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(3))
    totals = decoupled_totals(rewards, [1.0, 1.0])
    halves = torch.cat([standardize(totals[:2], totals), standardize(totals[2:], totals)])
    assert torch.equal(halves, decoupled_advantages(rewards, [1.0, 1.0]))
    assert not torch.allclose(halves[:2], standardize(totals[:2]))


def test_mean_only_keeps_the_size_of_a_preference():
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.1], [5.0, 5.0], [1.0, NAN]])
    expected = torch.tensor([[-0.5, 0.5], [-0.05, 0.05], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(mean_only_advantages(rewards), expected)


def test_batch_std_by_hand():
    """Centred (-1, 1) and (-2, 2), over the std of 0, 2, 0, 4."""
    rewards = torch.tensor([[0.0, 2.0], [0.0, 4.0]])
    spread = rewards.std() + 1e-4
    expected = torch.tensor([[-1.0, 1.0], [-2.0, 2.0]]) / spread
    torch.testing.assert_close(batch_std_advantages(rewards), expected)
    torch.testing.assert_close(batch_std_advantages(rewards[:1], rewards), expected[:1])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_is_safe_centred_and_clipped(estimator: str):
    values = torch.cat([REWARDS, torch.full((1, 6), 0.5), torch.full((1, 6), NAN)])
    values[0, 0] = NAN
    advantages = advantages_of(values, estimator)
    assert advantages.isfinite().all() and advantages[0, 0] == 0 and (advantages[-1] == 0).all()
    if estimator != "decoupled":  # it takes the mean of the whole batch away
        assert advantages.sum(-1).abs().max() < 1e-5
    assert advantages_of(values, estimator, clip=0.1).abs().max() <= 0.1


def test_toy_example_of_decoupled_normalisation():
    """Two binary rewards, groups (0, 1) and (0, 2): GRPO gives 0.7071 for both; GDPO 0.7071 and
    1.4142; a single group per batch falls back to 0.7071.
    """
    example = runpy.run_path(str(EXAMPLE))
    both = example["advantages"](example["ONE"], example["BOTH"])
    grpo, before, after = (values[:, 1].tolist() for values in both.values())
    assert grpo == pytest.approx([0.7071, 0.7071], abs=1e-4)
    assert before == pytest.approx([0.7071, 1.4142], abs=2e-4)
    assert after[1] == pytest.approx(2 * after[0])
    alone = example["advantages"](example["BOTH"])
    assert float(list(alone.values())[2][0, 1]) == pytest.approx(0.7071, abs=1e-3)


def test_toy_example_runs(capsys):
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "1.4140" in capsys.readouterr().out


def test_permutation_stays_inside_the_group():
    advantages = group_advantages(torch.rand(40, 6, generator=torch.Generator().manual_seed(2)))

    def permuted(seed: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(seed)
        return advantages.gather(-1, permutation_within_groups((40, 6), rng))

    assert torch.equal(permuted(0), permuted(0))
    assert not torch.equal(permuted(0), permuted(1))
    assert torch.equal(permuted(0).sort(-1).values, advantages.sort(-1).values)
    moved = (permuted(0) != advantages).float().mean()
    assert moved == pytest.approx(5 / 6, abs=0.1)
