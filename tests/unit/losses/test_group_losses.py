"""Losses beside GDPO on the same errors: values by hand, identities, and the automatic strength."""

from __future__ import annotations

import inspect
import math
from typing import NamedTuple

import pytest
import torch
from pydantic import ValidationError

from gdpo_sr.advantages import group_advantages
from gdpo_sr.config.train_options import TrainOptions
from gdpo_sr.losses import (
    LOSSES,
    OPTIONS,
    GroupErrors,
    GroupLoss,
    LossOutput,
    RewardValues,
    diffusion_dpo_loss,
    gdpo_loss,
    grpo_loss,
    reward_weighted_loss,
    sft_best_loss,
)
from gdpo_sr.losses.diffusion_dpo import pair_margin
from gdpo_sr.losses.gdpo_loss import preference_margin
from gdpo_sr.losses.multi_pair_dpo import pair_margins, weighted_pairs
from gdpo_sr.losses.preference import OmegaScale, preference_loss
from gdpo_sr.losses.reward_weighted import reward_weights
from gdpo_sr.losses.sft_best import best_error
from gdpo_sr.types import OptionError


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Case(NamedTuple):
    """What a loss is called with, and R (B, G)."""

    errors: GroupErrors
    advantages: torch.Tensor
    values: RewardValues

    def __call__(self, loss: GroupLoss) -> LossOutput:
        return loss(*self)

    @property
    def policy(self) -> torch.Tensor:
        return self.errors.policy

    @property
    def reference(self) -> torch.Tensor:
        return self.errors.reference

    @property
    def rewards(self) -> torch.Tensor:
        return self.values.values


def with_drift(policy: torch.Tensor, reference: torch.Tensor) -> GroupErrors:
    """Of answers that are numbers: squares of p - x and o - x, and of p - o."""
    return GroupErrors(policy, reference, (policy.sqrt() - reference.sqrt()).square())


def case(groups: int = 3, size: int = 6, moved: float = 1e-3) -> Case:
    values = torch.rand(groups, size, generator=torch.Generator().manual_seed(5))
    reference = 1 + 0.1 * draw(groups, size, seed=1)
    policy = (reference + moved * draw(groups, size, seed=2)).requires_grad_()
    return Case(
        with_drift(policy, reference),
        group_advantages(values),
        RewardValues(values, values.std(-1).mean()),
    )


RANKED = [n for n in LOSSES.names() if n not in ("grpo", "reward_gradient")]
"""Losses whose first gradient is made of advantages."""


# Registry


def test_every_loss_takes_its_options():
    """One name for both, and the same defaults."""
    assert LOSSES.names() == sorted(OPTIONS) and len(OPTIONS) >= 6
    for name, options in OPTIONS.items():
        given = options(type=name).model_dump(exclude={"type"})
        parameters = inspect.signature(LOSSES.get(name)).parameters
        assert given == {k: p.default for k, p in parameters.items()}, name


@pytest.mark.parametrize(
    ("property_", "losses"),
    [
        ("same_noise", {"dgpo", "diffusion_dpo", "multi_pair_dpo"}),
        ("imitates", {"sft_best", "reward_weighted", "diffusion_nft"}),
        ("by_element", {*LOSSES.names()} - {"multi_pair_dpo"}),
        ("needs_values", {"multi_pair_dpo"}),
        ("acts", {"grpo"}),
        ("action_sigma", {"grpo"}),
        ("needs_drift", {"diffusion_nft", "reward_gradient"}),
        ("through_rewards", {"reward_gradient"}),
    ],
)
def test_what_each_loss_asks_of_the_step(property_: str, losses: set[str]):
    found = {name for name in LOSSES.names() if getattr(LOSSES.get(name)(), property_)}
    assert found == losses


def test_the_schema_has_every_registered_loss():
    mapping = TrainOptions.model_json_schema()["properties"]["loss"]["oneOf"]
    titles = {entry["$ref"].rsplit("/", 1)[-1] for entry in mapping}
    assert titles == {options.__name__ for options in OPTIONS.values()}


def test_an_unknown_loss_is_named():
    with pytest.raises(OptionError, match="'gdop': did you mean 'gdpo'"):
        LOSSES.get("gdop")


@pytest.mark.parametrize("name", RANKED)
def test_a_tied_group_adds_no_gradient(name: str):
    s = case(2)
    s.advantages[0], s.rewards[0] = 0, 0.5
    s(LOSSES.get(name)()).loss.backward()
    assert torch.equal(s.policy.grad[0], torch.zeros(6))
    assert s.policy.grad[1].abs().max() > 0


@pytest.mark.parametrize("name", RANKED)
def test_the_best_candidate_is_learned_the_worst_is_not(name: str):
    s = case(moved=0)
    s(LOSSES.get(name)()).loss.backward()
    best, worst = s.rewards.argmax(-1, keepdim=True), s.rewards.argmin(-1, keepdim=True)
    assert (s.policy.grad.gather(-1, best) > 0).all()
    assert (s.policy.grad.gather(-1, worst) < s.policy.grad.gather(-1, best)).all()


def test_group_of_two_gdpo_is_diffusion_dpo():
    s = case(3, 2)
    ours, theirs = (
        s(LOSSES.get(name)(omega))
        for name, omega in (("gdpo", 5000.0), ("diffusion_dpo", 5000 * 0.5**0.5))
    )
    torch.testing.assert_close(ours.loss, theirs.loss)


@pytest.mark.parametrize("name", ["gdpo", "diffusion_dpo", "multi_pair_dpo"])
def test_omega_is_a_number_or_auto(name: str):
    options = OPTIONS[name]
    assert [options(type=name, omega=o).omega for o in (7, "auto")] == [7.0, "auto"]
    for wrong in (0, "fast"):
        with pytest.raises(ValidationError):
            options(type=name, omega=wrong)


# Multi-pair DPO


def test_pairs_and_weights_by_hand():
    """G = 4, N = 2: winners 3, 1 (0.9, 0.6), losers 0, 2 (0.1, 0.3); gaps 0.8, 0.6, 0.5, 0.3."""
    values = torch.tensor([[0.1, 0.6, 0.3, 0.9]])
    pairs = weighted_pairs(values, 0.5, mean_spread=torch.tensor(0.2))
    assert pairs.winner.tolist() == [[3, 3, 1, 1]] and pairs.loser.tolist() == [[0, 2, 0, 2]]
    gaps = torch.tensor([[0.8, 0.6, 0.5, 0.3]])
    expected = (gaps + 1 - 0.55) * (values.std() + 1 - 0.2)
    torch.testing.assert_close(pairs.weight, expected)


def test_a_tie_is_no_pair_and_does_not_count_for_the_mean_gap():
    """Winners 0.9 and 0.5, losers 0.2 and 0.5: gaps 0.7, 0.4, 0.3 and a tie, their mean 1.4 / 3."""
    values = torch.tensor([[math.nan, 0.2, 0.9, 0.5]])
    spread = values[values.isfinite()].std()
    found = weighted_pairs(values, 0.5, mean_spread=spread).weight
    expected = torch.tensor([[0.7, 0.4, 0.3, 1.4 / 3 - 1]]) + 1 - 1.4 / 3
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_the_best_quarter_of_groups_with_their_own_mean_spread():
    """G = 4: one pair, at the mean gap. Stds 0.5 and 1.5, their mean 1: weights 0.5 and 1.5."""
    group = torch.tensor([0.0, 0.0, 0.0, 1.0])
    pairs = weighted_pairs(torch.stack([group, 3 * group]))
    assert pairs.winner.tolist() == [[3], [3]]
    torch.testing.assert_close(pairs.weight, torch.tensor([[0.5], [1.5]]))


def test_one_pair_of_one_group_is_diffusion_dpo():
    """A single pair lies at the mean gap and a single group at the mean spread: the weight is 1."""
    s = case(1, 4)
    ours = s(LOSSES.get("multi_pair_dpo")())
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
    errors, advantages = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.5, -0.5]])
    high = math.e / (1 + math.e)
    loss = high + 3 * (1 - high)
    output = reward_weighted_loss(errors, advantages)
    assert float(output.loss) == pytest.approx(loss, rel=1e-6)
    assert float(output.logs["weight_best"]) == pytest.approx(high, rel=1e-6)
    by_name = LOSSES.get("reward_weighted")()(GroupErrors(errors, 9 * errors), advantages)
    assert float(by_name.loss) == pytest.approx(loss, rel=1e-6)
    assert reward_weights(advantages).tolist() == [pytest.approx([high, 1 - high], rel=1e-6)]


def test_the_mean_weight_of_the_best_of_two_pictures():
    """A tie weighs nothing: e / (1 + e) / 2."""
    advantages = torch.tensor([[0.5, -0.5], [0.0, 0.0]])
    logs = reward_weighted_loss(torch.ones(2, 2), advantages).logs
    assert float(logs["weight_best"]) == pytest.approx(math.e / (1 + math.e) / 2, rel=1e-6)


def test_a_tie_has_no_best_candidate():
    """Its error counts as 0, beside a group whose best has 4."""
    errors, advantages = torch.tensor([[3.0, 5.0], [9.0, 4.0]]), torch.tensor([[0.0] * 2, [-1, 1]])
    assert best_error(errors, advantages).tolist() == [0.0, 4.0]


def test_sft_takes_the_best_and_cold_weights_do_too():
    s = case()
    best = s.policy.gather(-1, s.rewards.argmax(-1, keepdim=True)).mean()
    torch.testing.assert_close(sft_best_loss(s.policy, s.advantages).loss, best)
    torch.testing.assert_close(reward_weighted_loss(s.policy, s.advantages, 1e-3).loss, best)


# Cells


BY_ELEMENT = [name for name in LOSSES.names() if LOSSES.get(name).by_element]


def element_case(advantages: torch.Tensor) -> Case:
    """Errors per latent element, with advantages (2, 3, 4, 8)."""
    errors, reference = draw(2, 3, 4, 8).square(), draw(2, 3, 4, 8, seed=1).square()
    values = RewardValues(draw(2, 3, seed=2), torch.tensor(1.0))
    return Case(with_drift(errors.requires_grad_(), reference), advantages, values)


def part_of(whole: Case, columns: slice) -> Case:
    """Columns whose elements all have one advantage, as a picture of their own."""
    errors = [e[..., columns].mean((2, 3)) for e in (whole.policy, whole.reference)]
    advantages = whole.advantages[..., 0, columns][..., 0]
    return Case(GroupErrors(*errors), advantages, whole.values)


def maps_of(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(2, 3) each for the two halves of 4 x 8 elements."""
    halves = torch.stack([left, right], -1).repeat_interleave(4, -1)
    return halves[:, :, None].expand(2, 3, 4, 8)


@pytest.mark.parametrize(
    "margin",
    [
        lambda s: preference_margin(*s.errors[:2], s.advantages),
        lambda s: pair_margin(*s.errors[:2], s.advantages),
        lambda s: best_error(s.policy, s.advantages),
    ],
    ids=["gdpo", "diffusion_dpo", "sft_best"],
)
def test_a_picture_is_the_mean_of_its_cells(margin):
    """Two cells with different best candidates: the margin is the mean of the two margins."""
    left = draw(2, 3, seed=3)
    right = left.roll(1, -1)
    assert (left.argmax(-1) != right.argmax(-1)).all()
    whole = element_case(maps_of(left, right))
    cells = [margin(part_of(whole, columns)) for columns in (slice(4), slice(4, 8))]
    torch.testing.assert_close(margin(whole), sum(cells) / 2)
    assert (cells[0] - cells[1]).abs().min() > 1e-3


def test_weights_of_cells_are_their_own():
    left = draw(2, 3, seed=3)
    whole = element_case(maps_of(left, left.roll(1, -1)))
    cells = [part_of(whole, columns) for columns in (slice(4), slice(4, 8))]
    losses = [reward_weighted_loss(c.policy, c.advantages).loss for c in cells]
    found = reward_weighted_loss(whole.policy, whole.advantages).loss
    torch.testing.assert_close(found, sum(losses) / 2)


@pytest.mark.parametrize("name", sorted({*BY_ELEMENT} & {*RANKED}))
def test_a_cell_that_ties_adds_no_gradient(name: str):
    advantages = draw(2, 3, 4, 8, seed=3)
    advantages[..., :4] = 0
    whole = element_case(advantages)
    whole(LOSSES.get(name)()).loss.backward()
    assert torch.equal(whole.policy.grad[..., :4], torch.zeros(2, 3, 4, 4))
    assert whole.policy.grad[..., 4:].abs().max() > 0


def test_equal_advantages_of_all_cells_are_the_plain_loss():
    s = element_case(maps_of(*[group_advantages(draw(2, 3, seed=2))] * 2))
    by_element = gdpo_loss(*s.errors[:2], s.advantages, 1.0)
    plain = gdpo_loss(*(e.mean((2, 3)) for e in s.errors[:2]), s.advantages[..., 0, 0], 1.0)
    torch.testing.assert_close(by_element.loss, plain.loss)


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
        grpo_loss(actions, old, mean, advantages).loss.backward()
        gradients.append(mean.grad)
    torch.testing.assert_close(*gradients)
    mean = old.clone()
    mean[..., :4] = actions[..., :4]  # these elements have moved far beyond the trust region
    mean.requires_grad_()
    grpo_loss(actions, old, mean, maps.abs()).loss.backward()
    assert torch.equal(mean.grad[..., :4], torch.zeros(1, 3, 2, 4, 4))
    assert mean.grad[..., 4:].abs().amin() > 0


# Automatic omega


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_automatic_omega_keeps_logits_near_1(size: float):
    """Whatever the size of |S|, and although it grows in the run."""
    scale = OmegaScale()
    for step in range(60):
        margin = size * (1 + step / 60) * draw(64, seed=step)
        omega = scale.omega(margin, torch.full((4,), size))
    logits = 0.5 * omega * margin
    assert 0.8 < float(logits.abs().mean()) < 1.2


def test_automatic_omega_starts_as_the_papers():
    """The policy has not moved: S = 0, errors of 1 give omega 5000, errors of 4 give 1250."""
    assert float(OmegaScale().omega(torch.zeros(2), torch.ones(2, 6))) == pytest.approx(5000)
    assert float(OmegaScale().omega(torch.zeros(2), 4 * torch.ones(2, 6))) == pytest.approx(1250)


def test_automatic_omega_of_errors_of_any_sign():
    """Errors from the LR picture average to 0 over a group. Mean size of (-3, 1, 2) and (-1, 0, 1):
    8 / 6 = 4 / 3, so the first omega is 5000 / (4 / 3) = 3750; the next, at |S| = 0.01, is
    2 / ((0.9 * 0.1 * 0.00053333 + 0.1 * 0.01) / 0.19) = 362.6.
    """
    errors = torch.tensor([[-3.0, 1.0, 2.0], [-1.0, 0.0, 1.0]])
    scale = OmegaScale()
    assert float(scale.omega(torch.zeros(2), errors)) == pytest.approx(3750, rel=1e-6)
    moved = torch.tensor([0.01, -0.01])
    assert float(scale.omega(moved, errors)) == pytest.approx(362.595, rel=1e-5)


def test_automatic_omega_leaves_out_what_ties_altogether():
    """No error, no signal: finite, and the next strength is that of a first loss."""
    scale = OmegaScale()
    assert scale.omega(torch.zeros(2), torch.zeros(2, 3)).isfinite()
    assert float(scale.omega(torch.zeros(2), torch.ones(2, 3))) == pytest.approx(5000)


def test_automatic_omega_goes_on_from_its_state():
    first, second = OmegaScale(), OmegaScale()
    first.omega(torch.tensor([0.3]), torch.ones(1))
    second.load_state_dict(first.state_dict())
    margins = torch.tensor([0.1, -0.5])
    assert first.omega(margins, torch.ones(1)) == second.omega(margins, torch.ones(1))


def test_automatic_omega_is_logged_and_has_no_graph():
    s = case()
    output = s(LOSSES.get("gdpo")("auto"))
    output.loss.backward()
    assert float(output.logs["logit_abs"]) == pytest.approx(1, rel=1e-4)
    assert float(output.logs["omega"]) > 0 and s.policy.grad.isfinite().all()


def test_omega_is_logged_and_remembered_by_the_loss():
    s, loss = case(), LOSSES.get("gdpo")("auto")
    assert float(s(LOSSES.get("gdpo")(7.0)).logs["omega"]) == 7
    first = s(loss).logs["omega"]
    again = LOSSES.get("gdpo")("auto")
    again.load_state_dict(loss.state_dict())
    assert loss.state_dict()["weight"] == pytest.approx(0.1)
    torch.testing.assert_close(s(again).logs["omega"], first)
    again.load_state_dict({})  # of a run whose omega was fixed
    assert again.state_dict()["weight"] == pytest.approx(0.19)
    assert LOSSES.get("sft_best")().state_dict() == {}


def test_automatic_omega_looks_at_the_references_errors():
    """Of size 1, those of the policy of size 4: 5000 where all advantages are 0."""
    errors = GroupErrors(torch.full((1, 2), 4.0), torch.ones(1, 2))
    logs = LOSSES.get("gdpo")("auto")(errors, torch.zeros(1, 2)).logs
    assert float(logs["omega"]) == pytest.approx(5000)


def test_omega_of_all_processes():
    """The mean over processes: another's |S| is 3, its errors 1, so 2 / ((1 + 3) / 2) = 1."""
    scale = OmegaScale()
    scale.reduce = lambda found: (found + torch.tensor([3.0, 1.0])) / 2
    assert float(scale.omega(torch.tensor([1.0]), torch.ones(1))) == pytest.approx(1)


def test_weights_of_a_preference_by_hand():
    """Margins 0 and 0 weigh 1 and 3: (1 + 3) / 2 ln 2."""
    loss = preference_loss(torch.zeros(2), 5.0, torch.tensor([1.0, 3.0])).loss
    assert float(loss) == pytest.approx(2 * math.log(2))


def test_margins_of_pairs_by_hand():
    """Winner 1, loser 0: (0.1 - 0.4) - (0.9 - 0.7) = -0.5."""
    pairs = weighted_pairs(torch.tensor([[0.0, 1.0]]), 0.5)
    found = pair_margins(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.7, 0.4]]), pairs)
    torch.testing.assert_close(found, torch.tensor([[-0.5]]))


def test_pairs_need_values():
    s = case()
    with pytest.raises(ValueError, match="multi_pair_dpo needs the values"):
        LOSSES.get("multi_pair_dpo")()(s.errors, s.advantages)
