"""DGPO: by hand, and what it has in common with GDPO-SR's loss."""

from __future__ import annotations

import math

import pytest
import torch

from gdpo_sr.losses import LOSSES, GroupErrors, dgpo_loss, gdpo_loss

ADVANTAGES = torch.tensor([[1.0, -1.0], [0.5, -0.5]])
POLICY = torch.tensor([[0.9, 0.4], [0.2, 0.3]])
REFERENCE = torch.tensor([[0.7, 0.5], [0.2, 0.3]])


def test_by_hand():
    """G = 2, omega 4. First group: S = 0.2 + 0.1, so w = sigmoid(4 / 2 * 0.3), mean A l = 0.25.
    Second: S = 0, w = 1/2, mean A l = (0.1 - 0.15) / 2 = -0.025.
    """
    output = dgpo_loss(POLICY, REFERENCE, ADVANTAGES, omega=4.0)
    weight = 1 / (1 + math.exp(-0.6))
    assert float(output.loss) == pytest.approx((weight * 0.25 - 0.5 * 0.025) / 2, rel=1e-6)
    assert float(output.logs["weight"]) == pytest.approx((weight + 0.5) / 2, rel=1e-6)
    assert float(output.logs["logit"]) == pytest.approx(-0.3, rel=1e-6)
    assert output.logs["won"] == 0
    assert dgpo_loss(POLICY, REFERENCE, -ADVANTAGES, omega=4.0).logs["won"] == 0.5
    assert (
        dgpo_loss(POLICY, REFERENCE, ADVANTAGES).loss
        == dgpo_loss(POLICY, REFERENCE, ADVANTAGES, 100.0).loss
    )


def test_margin_by_hand():
    """2 S / G: S = 0.3 and 0, G = 2."""
    margin, weights = LOSSES.get("dgpo")().margin(GroupErrors(POLICY, REFERENCE), ADVANTAGES, None)
    torch.testing.assert_close(margin, torch.tensor([0.3, 0.0]))
    assert weights is None


@pytest.mark.parametrize("shape", [(3, 6), (3, 6, 2, 2)])
def test_its_gradient_is_that_of_gdpo_divided_by_omega(shape: tuple[int, ...]):
    """GDPO's is v / 2 sigmoid(v / 2 S) A_i; with v = 2 omega / G it is omega times DGPO's."""
    rng = torch.Generator().manual_seed(0)
    reference = torch.rand(shape, generator=rng)
    policy = (reference + 0.05 * torch.randn(shape, generator=rng)).requires_grad_()
    advantages = torch.randn(shape, generator=rng)
    [ours] = torch.autograd.grad(dgpo_loss(policy, reference, advantages, 30.0).loss, policy)
    theirs = gdpo_loss(policy, reference, advantages, 2 * 30.0 / 6).loss
    torch.testing.assert_close(30 * ours, torch.autograd.grad(theirs, policy)[0])


def test_advantages_are_limited():
    errors = GroupErrors(POLICY, REFERENCE)
    loss = LOSSES.get("dgpo")(4.0, advantage_clip=0.5)
    limited = dgpo_loss(POLICY, REFERENCE, ADVANTAGES.clamp(-0.5, 0.5), 4.0).loss
    assert torch.equal(loss(errors, ADVANTAGES).loss, limited)
    free = LOSSES.get("dgpo")(4.0)(errors, ADVANTAGES).loss
    assert torch.equal(free, dgpo_loss(POLICY, REFERENCE, ADVANTAGES, 4.0).loss) and free != limited


def test_distance_from_the_reference():
    """0.5 times the mean drift of 0.3; without a weight it is not asked for."""
    drift = torch.tensor([[0.2, 0.4], [0.1, 0.5]])
    plain, held = LOSSES.get("dgpo")(4.0), LOSSES.get("dgpo")(4.0, kl_weight=0.5)
    assert held.needs_drift and not plain.needs_drift
    errors = GroupErrors(POLICY, REFERENCE, drift)
    gap = held(errors, ADVANTAGES).loss - plain(errors, ADVANTAGES).loss
    assert float(gap) == pytest.approx(0.15, rel=1e-5)


def test_automatic_omega_keeps_the_logits_near_one():
    output = LOSSES.get("dgpo")("auto")(GroupErrors(POLICY, REFERENCE), ADVANTAGES)
    assert float(output.logs["logit_abs"]) == pytest.approx(1, rel=1e-5)


def test_automatic_omega_of_a_policy_that_has_not_moved():
    """All errors of a group are larger alike, so S = 0: |S| counts as 4e-4 of the mean reference
    error, (0.7 + 0.5 + 0.2 + 0.3) / 4 = 0.425.
    """
    errors = GroupErrors(REFERENCE + 1, REFERENCE)
    omega = LOSSES.get("dgpo")("auto")(errors, torch.tensor([[1.0, -1.0]] * 2)).logs["omega"]
    assert float(omega) == pytest.approx(2 / (4e-4 * 0.425), rel=1e-3)
