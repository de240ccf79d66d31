"""GDPO: values and gradients by hand, and against recordings of the released code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gdpo_sr.advantages import group_advantages
from gdpo_sr.group.errors import mean_squared_error
from gdpo_sr.losses import diffusion_dpo_loss, gdpo_loss
from gdpo_sr.losses.gdpo_loss import preference_margin


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=rng(seed))


ADVANTAGES = group_advantages(draw(2, 6))
REFERENCE = 1 + 0.1 * draw(2, 6, seed=1)


# GDPO


def test_equal_policies_give_ln_2_and_the_gradient_1250_a():
    """-log sigmoid(0) = ln 2, its slope 1/2, times omega / 2 A_i; the mean over B = 2 halves it."""
    policy = REFERENCE.clone().requires_grad_()
    output = gdpo_loss(policy, REFERENCE, ADVANTAGES)
    output.loss.backward()
    assert float(output.loss.detach()) == pytest.approx(math.log(2), rel=1e-6)
    torch.testing.assert_close(policy.grad, 1250 * ADVANTAGES / 2)
    assert float(output.logs["logit"]) == 0 and float(output.logs["won"]) == 0


def test_group_of_two_is_diffusion_dpo():
    """A = +-0.7071, so S is 0.7071 times the pair's margin: beta = 5000 * 0.7071 = 3535.5."""
    advantages = group_advantages(draw(3, 2))
    reference = 1 + 0.1 * draw(3, 2, seed=1)
    policy = reference + 1e-3 * draw(3, 2, seed=2)
    ours = gdpo_loss(policy, reference, advantages).loss
    pairwise = diffusion_dpo_loss(policy, reference, advantages, beta=5000 * 0.5**0.5).loss
    torch.testing.assert_close(ours, pairwise)


def test_a_step_down_the_gradient_favours_the_better_candidates():
    """The error of candidates with A > 0 falls, of those with A < 0 rises, and S gets negative."""
    policy = REFERENCE.clone().requires_grad_()
    gdpo_loss(policy, REFERENCE, ADVANTAGES).loss.backward()
    moved = (policy - 1e-7 * policy.grad).detach()
    assert torch.equal((moved - REFERENCE).sign(), -ADVANTAGES.sign())
    output = gdpo_loss(moved, REFERENCE, ADVANTAGES)
    assert float(output.loss) < math.log(2)
    assert float(output.logs["won"]) == 1 and float(output.logs["logit"]) > 0


def test_a_tied_group_adds_ln_2_and_no_gradient():
    policy = (REFERENCE + 0.01 * draw(2, 6, seed=2)).requires_grad_()
    advantages = torch.stack([torch.zeros(6), ADVANTAGES[1]])
    loss = gdpo_loss(policy, REFERENCE, advantages).loss
    alone = gdpo_loss(policy[1:], REFERENCE[1:], ADVANTAGES[1:]).loss
    torch.testing.assert_close(loss, (math.log(2) + alone) / 2)
    loss.backward()
    assert torch.equal(policy.grad[0], torch.zeros(6))


@pytest.mark.parametrize("margin", [-1.0, 1.0])
def test_a_saturated_logit_stays_finite(margin: float):
    """S = +-1 at omega 5000: the loss is 2500 or 0, never inf."""
    policy = torch.tensor([[margin, 0.0]], requires_grad=True)
    loss = gdpo_loss(policy, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]])).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(max(2500 * margin, 0))
    assert policy.grad.isfinite().all()


@pytest.mark.parametrize("tag", ["small", "mid", "large"])
def test_recorded_loss_and_gradient(golden, tag: str):
    """From predictions to the loss, in float32 and in float64 (its gradient stored in float32)."""
    arrays = np.load(golden("gdpo_loss.npz"))
    recorded = {k.split("__")[1]: torch.from_numpy(arrays[k]) for k in arrays if k.startswith(tag)}
    for suffix, dtype, tolerance in (("", torch.float32, 1e-3), ("64", torch.float64, 1e-9)):
        prediction = recorded["model_pred"].to(dtype).clone().requires_grad_()
        noise, advantages = recorded["noise"].to(dtype), recorded["adv"].to(dtype)
        policy, reference = (
            (p - noise).square().mean(dim=(1, 2, 3)).view(2, 6)
            for p in (prediction, recorded["ref_pred"].to(dtype))
        )
        inside = -2500 * preference_margin(policy, reference, advantages)
        loss = gdpo_loss(policy, reference, advantages).loss
        loss.backward()
        expected = [recorded[name + suffix] for name in ("inside_term", "loss", "grad")]
        torch.testing.assert_close(inside.detach(), expected[0], atol=tolerance, rtol=0)
        torch.testing.assert_close(loss.detach(), expected[1], atol=tolerance, rtol=0)
        error = (prediction.grad - expected[2]).norm() / expected[2].norm()
        assert error < (1e-6 if suffix else 1e-3)


def test_recorded_gradient_of_equal_policies(golden):
    arrays = np.load(golden("gdpo_loss.npz"))
    reference, noise, advantages, expected = (
        torch.from_numpy(arrays[name])
        for name in ("large__ref_pred", "large__noise", "large__adv", "equal__grad")
    )
    prediction = reference.clone().requires_grad_()
    errors = (mean_squared_error(x, noise, (-3, -2, -1)) for x in (prediction, reference))
    policy, unchanged = (error.view(2, 6) for error in errors)
    loss = gdpo_loss(policy, unchanged, advantages).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(2), rel=1e-6)
    torch.testing.assert_close(prediction.grad, expected, atol=1e-5, rtol=1e-5)


def test_margin_and_loss_by_hand():
    """S = 1 x (0.5 - 0.3) - 1 x (0.1 - 0.2) = 0.3; -log sigmoid(-2 / 2 x 0.3) = log(1 + e^0.3) =
    0.85436.
    """
    errors = torch.tensor([[0.5, 0.1]]), torch.tensor([[0.3, 0.2]])
    advantages = torch.tensor([[1.0, -1.0]])
    torch.testing.assert_close(preference_margin(*errors, advantages), torch.tensor([0.3]))
    output = gdpo_loss(*errors, advantages, omega=2.0)
    assert float(output.loss) == pytest.approx(0.854355, rel=1e-5)
    assert float(output.logs["logit"]) == pytest.approx(-0.3)
    assert float(output.logs["logit_abs"]) == pytest.approx(0.3) and output.logs["won"] == 0


def test_logs_of_two_pictures():
    """S = 0.3 and -0.1 at omega 2: logits -0.3 and 0.1; one of two is won."""
    policy = torch.tensor([[0.3, 0.0], [0.0, 0.1]])
    logs = gdpo_loss(policy, torch.zeros(2, 2), torch.tensor([[1.0, -1.0]] * 2), 2.0).logs
    assert float(logs["logit"]) == pytest.approx(-0.1)
    assert float(logs["logit_abs"]) == pytest.approx(0.2) and float(logs["won"]) == 0.5
