"""Losses beside GDPO on the same errors: values by hand, identities, and the automatic strength."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from gdpo_sr.advantages import group_advantages
from gdpo_sr.config.loss_options import (
    DiffusionDPOLossOptions,
    GDPOLossOptions,
    GRPOLossOptions,
    MultiPairDPOLossOptions,
    RewardWeightedLossOptions,
    SFTBestLossOptions,
)
from gdpo_sr.losses import (
    diffusion_dpo_loss,
    gdpo_loss,
    multi_pair_dpo_loss,
    reward_weighted_loss,
    sft_best_loss,
)
from gdpo_sr.losses.gdpo_loss import preference_margin
from gdpo_sr.losses.group_losses import LOSSES, ActionSignal, ErrorSignal
from gdpo_sr.losses.multi_pair_dpo import weighted_pairs
from gdpo_sr.losses.preference import LogitScale
from gdpo_sr.rewards.regions import advantage_map
from gdpo_sr.types import OptionError

OPTIONS = (
    GDPOLossOptions,
    DiffusionDPOLossOptions,
    MultiPairDPOLossOptions,
    GRPOLossOptions,
    RewardWeightedLossOptions,
    SFTBestLossOptions,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def signal(groups: int = 3, size: int = 6) -> ErrorSignal:
    values = torch.rand(groups, size, generator=torch.Generator().manual_seed(5))
    reference = 1 + 0.1 * draw(groups, size, seed=1)
    policy = (reference + 1e-3 * draw(groups, size, seed=2)).requires_grad_()
    return ErrorSignal(policy, reference, group_advantages(values), values, values.std(-1).mean())


# Registry


def test_every_option_group_has_its_loss_and_defaults():
    assert LOSSES.names() == sorted(o.model_fields["type"].annotation.__args__[0] for o in OPTIONS)
    for options in OPTIONS:
        name = options.model_fields["type"].annotation.__args__[0]
        given = options(type=name).model_dump(exclude={"type"})
        parameters = inspect.signature(LOSSES.get(name)).parameters
        assert given == {k: p.default for k, p in parameters.items()}, name


def test_an_unknown_loss_is_named():
    with pytest.raises(OptionError, match="'gdop': did you mean 'gdpo'"):
        LOSSES.get("gdop")


@pytest.mark.parametrize("name", [n for n in LOSSES.names() if n != "grpo"])
def test_a_tied_group_adds_no_gradient(name: str):
    s = signal(2)
    s.advantages[0], s.values[0] = 0, 0.5
    LOSSES.get(name)()(s).loss.backward()
    assert torch.equal(s.policy.grad[0], torch.zeros(6))
    assert s.policy.grad[1].abs().max() > 0


@pytest.mark.parametrize("name", [n for n in LOSSES.names() if n != "grpo"])
def test_the_best_candidate_is_learned_the_worst_is_not(name: str):
    s = signal()
    s.policy = s.reference.clone().requires_grad_()
    LOSSES.get(name)()(s).loss.backward()
    best, worst = s.values.argmax(-1, keepdim=True), s.values.argmin(-1, keepdim=True)
    assert (s.policy.grad.gather(-1, best) > 0).all()
    assert (s.policy.grad.gather(-1, worst) < s.policy.grad.gather(-1, best)).all()


def test_group_of_two_gdpo_is_diffusion_dpo():
    s = signal(3, 2)
    ours, theirs = LOSSES.get("gdpo")(5000.0)(s), LOSSES.get("diffusion_dpo")(5000 * 0.5**0.5)(s)
    torch.testing.assert_close(ours.loss, theirs.loss)


def test_grpo_learns_nothing_without_action_noise():
    mean = draw(2, 3, 4, 5, 5).requires_grad_()
    old = mean.detach()
    advantages = group_advantages(draw(2, 3))
    still = ActionSignal(old, old, mean, None, advantages)
    LOSSES.get("grpo")()(still).loss.backward()
    assert torch.equal(mean.grad, torch.zeros_like(mean))
    moved = ActionSignal(old + 0.1 * draw(2, 3, 4, 5, 5, seed=1), old, mean, None, advantages)
    LOSSES.get("grpo")()(moved).loss.backward()
    assert mean.grad.abs().max() > 0


# Multi-pair DPO


def test_pairs_and_weights_by_hand():
    """G = 4, N = 2: winners 3, 1 (0.9, 0.6), losers 0, 2 (0.1, 0.3); gaps 0.8, 0.6, 0.5, 0.3."""
    values = torch.tensor([[0.1, 0.6, 0.3, 0.9]])
    pairs = weighted_pairs(values, 0.5, mean_spread=torch.tensor(0.2))
    assert pairs.winner.tolist() == [[3, 3, 1, 1]] and pairs.loser.tolist() == [[0, 2, 0, 2]]
    gaps = torch.tensor([[0.8, 0.6, 0.5, 0.3]])
    expected = (gaps + 1 - 0.55) * (values.std() + 1 - 0.2)
    torch.testing.assert_close(pairs.weight, expected)


def test_one_pair_of_one_group_is_diffusion_dpo():
    """A single pair lies at the mean gap and a single group at the mean spread: the weight is 1."""
    s = signal(1, 4)
    ours = multi_pair_dpo_loss(s.policy, s.reference, s.values)
    theirs = diffusion_dpo_loss(s.policy, s.reference, s.advantages)
    torch.testing.assert_close(ours.loss, theirs.loss)


def test_candidates_without_score_are_in_no_pair():
    values = torch.tensor([[math.nan, 0.2, 0.9, math.nan], [math.nan] * 4])
    pairs = weighted_pairs(values, 0.25)
    assert (pairs.winner[0, 0], pairs.loser[0, 0]) == (2, 1) and pairs.weight[0, 0] > 0
    assert pairs.weight[1].tolist() == [0]
    few = weighted_pairs(values, 0.5)
    used = few.weight[0] > 0
    assert set(few.winner[0][used].tolist()) | set(few.loser[0][used].tolist()) <= {1, 2}


# Imitation


def test_reward_weighted_by_hand():
    """Weights e / (1 + e) and 1 / (1 + e) of errors 1 and 3."""
    loss = reward_weighted_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.5, -0.5]])).loss
    high = math.e / (1 + math.e)
    assert float(loss) == pytest.approx(high + 3 * (1 - high), rel=1e-6)


def test_sft_takes_the_best_and_cold_weights_do_too():
    s = signal()
    best = s.policy.gather(-1, s.values.argmax(-1, keepdim=True)).mean()
    torch.testing.assert_close(sft_best_loss(s.policy, s.advantages).loss, best)
    torch.testing.assert_close(reward_weighted_loss(s.policy, s.advantages, 1e-3).loss, best)


# Regions


def test_equal_advantages_of_all_regions_are_the_plain_loss():
    errors, reference = draw(2, 3, 5, 7).square(), draw(2, 3, 5, 7, seed=1).square()
    advantages = group_advantages(draw(2, 3, seed=2))
    share = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0))
    by_region = gdpo_loss(errors, reference, advantage_map(advantages, advantages, share), 1.0)
    plain = gdpo_loss(errors.mean((2, 3)), reference.mean((2, 3)), advantages, 1.0)
    torch.testing.assert_close(by_region.loss, plain.loss)


def test_a_region_is_weighted_by_its_own_advantage_and_area():
    """Left half smooth, right half textured: S = 1/2 S_left + 1/2 S_right."""
    errors, reference = draw(1, 3, 4, 8).square(), draw(1, 3, 4, 8, seed=1).square()
    smooth, textured = group_advantages(draw(1, 3, seed=2)), group_advantages(draw(1, 3, seed=3))
    share = torch.zeros(1, 4, 8)
    share[..., 4:] = 1
    whole = preference_margin(errors, reference, advantage_map(smooth, textured, share))
    halves = [
        preference_margin(errors[..., part].mean((2, 3)), reference[..., part].mean((2, 3)), a)
        for part, a in ((slice(4), smooth), (slice(4, 8), textured))
    ]
    torch.testing.assert_close(whole, sum(halves) / 2)


# Cells


MARGIN_LOSSES = ["gdpo", "diffusion_dpo", "reward_weighted", "sft_best"]


def element_signal(advantages: torch.Tensor) -> ErrorSignal:
    """Errors per latent element, with advantages (2, 3, 4, 8)."""
    errors, reference = draw(2, 3, 4, 8).square(), draw(2, 3, 4, 8, seed=1).square()
    return ErrorSignal(errors, reference, advantages, draw(2, 3, seed=2), torch.tensor(1.0))


def part_of(whole: ErrorSignal, columns: slice) -> ErrorSignal:
    """Columns whose elements all have one advantage, as a picture of their own."""
    errors = [e[..., columns].mean((2, 3)) for e in (whole.policy, whole.reference)]
    return ErrorSignal(*errors, whole.advantages[..., 0, columns][..., 0], whole.values, None)


@pytest.mark.parametrize("name", MARGIN_LOSSES)
def test_a_picture_is_the_mean_of_its_cells(name: str):
    """Two cells with different best candidates: the margin is the mean of the two margins."""
    left = draw(2, 3, seed=3)
    right = left.roll(1, -1)
    assert (left.argmax(-1) != right.argmax(-1)).all()
    maps = torch.stack([left, right], -1).repeat_interleave(4, -1)[:, :, None].expand(2, 3, 4, 8)
    whole, margin = element_signal(maps), LOSSES.get(name)().margin
    cells = [margin(part_of(whole, columns)) for columns in (slice(4), slice(4, 8))]
    torch.testing.assert_close(margin(whole), sum(cells) / 2)
    assert (cells[0] - cells[1]).abs().min() > 1e-3


@pytest.mark.parametrize("name", MARGIN_LOSSES)
def test_a_cell_that_ties_adds_no_gradient(name: str):
    advantages = draw(2, 3, 4, 8, seed=3)
    advantages[..., :4] = 0
    whole = element_signal(advantages)
    whole.policy.requires_grad_()
    LOSSES.get(name)().margin(whole).sum().backward()
    assert torch.equal(whole.policy.grad[..., :4], torch.zeros(2, 3, 4, 4))
    assert whole.policy.grad[..., 4:].abs().amax((1, 2, 3)).min() > 0


def test_cells_of_a_gaussian_policy():
    """Each has its own ratio; the same advantage everywhere gives the first gradient of pictures.

    A clip that cuts one cell leaves the other.
    """
    old = draw(1, 3, 2, 4, 8)
    actions, plain = old + 0.1 * draw(1, 3, 2, 4, 8, seed=1), group_advantages(draw(1, 3, seed=2))
    maps = plain[..., None, None].expand(1, 3, 4, 8)
    gradients = []
    for advantages in (plain, maps):
        mean = old.clone().requires_grad_()
        LOSSES.get("grpo")()(ActionSignal(actions, old, mean, None, advantages)).loss.backward()
        gradients.append(mean.grad)
    torch.testing.assert_close(*gradients)
    mean = old.clone()
    mean[..., :4] = actions[..., :4]  # these elements have moved far beyond the trust region
    mean.requires_grad_()
    LOSSES.get("grpo")()(ActionSignal(actions, old, mean, None, maps.abs())).loss.backward()
    assert torch.equal(mean.grad[..., :4], torch.zeros(1, 3, 2, 4, 4))
    assert mean.grad[..., 4:].abs().amin() > 0


# Automatic strength


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_automatic_strength_keeps_logits_near_1(size: float):
    """Whatever the size of |S|, and although it grows in the run."""
    scale = LogitScale()
    for step in range(60):
        margin = size * (1 + step / 60) * draw(64, seed=step)
        strength = scale.strength(margin, torch.full((4,), size))
    logits = 0.5 * strength * margin
    assert 0.8 < float(logits.abs().mean()) < 1.2


def test_automatic_strength_starts_as_the_papers():
    """The policy has not moved: S = 0, errors of 1 give omega 5000, errors of 4 give 1250."""
    assert float(LogitScale().strength(torch.zeros(2), torch.ones(2, 6))) == pytest.approx(5000)
    assert float(LogitScale().strength(torch.zeros(2), 4 * torch.ones(2, 6))) == pytest.approx(1250)


def test_automatic_strength_of_errors_of_any_sign():
    """Errors from the LR picture average to 0 over a group. Mean size of (-3, 1, 2) and (-1, 0, 1):
    8 / 6 = 4 / 3, so the first omega is 5000 / (4 / 3) = 3750; the next, at |S| = 0.01, is
    2 / ((0.9 * 0.1 * 0.00053333 + 0.1 * 0.01) / 0.19) = 362.6.
    """
    errors = torch.tensor([[-3.0, 1.0, 2.0], [-1.0, 0.0, 1.0]])
    scale = LogitScale()
    assert float(scale.strength(torch.zeros(2), errors)) == pytest.approx(3750, rel=1e-6)
    moved = torch.tensor([0.01, -0.01])
    assert float(scale.strength(moved, errors)) == pytest.approx(362.595, rel=1e-5)


def test_automatic_strength_leaves_out_what_ties_altogether():
    """No error, no signal: finite, and the next strength is that of a first loss."""
    scale = LogitScale()
    assert scale.strength(torch.zeros(2), torch.zeros(2, 3)).isfinite()
    assert float(scale.strength(torch.zeros(2), torch.ones(2, 3))) == pytest.approx(5000)


def test_automatic_strength_goes_on_from_its_state():
    first, second = LogitScale(), LogitScale()
    first.strength(torch.tensor([0.3]), torch.ones(1))
    second.load_state_dict(first.state_dict())
    margins = torch.tensor([0.1, -0.5])
    assert first.strength(margins, torch.ones(1)) == second.strength(margins, torch.ones(1))


def test_automatic_omega_is_logged_and_has_no_graph():
    s = signal()
    output = LOSSES.get("gdpo")("auto")(s)
    output.loss.backward()
    assert float(output.logs["logit_abs"]) == pytest.approx(1, rel=1e-4)
    assert float(output.logs["omega"]) > 0 and s.policy.grad.isfinite().all()
