"""Diffusion-DPO: best against worst."""

from __future__ import annotations

import math

import pytest
import torch

from gdpo_sr.advantages import group_advantages
from gdpo_sr.losses import diffusion_dpo_loss
from gdpo_sr.losses.diffusion_dpo import pair_margin


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


ADVANTAGES = group_advantages(draw(2, 6))
REFERENCE = 1 + 0.1 * draw(2, 6, seed=1)


def test_dpo_looks_at_best_and_worst_only():
    policy = (REFERENCE + 1e-4 * draw(2, 6, seed=2)).requires_grad_()
    output = diffusion_dpo_loss(policy, REFERENCE, ADVANTAGES)
    output.loss.backward()
    used = torch.zeros(2, 6, dtype=torch.bool)
    used.scatter_(1, ADVANTAGES.argmax(-1, keepdim=True), True)
    used.scatter_(1, ADVANTAGES.argmin(-1, keepdim=True), True)
    assert torch.equal(policy.grad != 0, used)
    assert (policy.grad[ADVANTAGES == ADVANTAGES.amax(-1, keepdim=True)] > 0).all()


def test_dpo_of_a_tied_group():
    policy = (REFERENCE + 0.01 * draw(2, 6, seed=2)).requires_grad_()
    loss = diffusion_dpo_loss(policy, REFERENCE, torch.zeros(2, 6)).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(2), rel=1e-6)
    assert torch.equal(policy.grad, torch.zeros(2, 6))


def test_margin_by_hand():
    """Best is 2, worst 0: (0.4 - 0.5) - (0.9 - 0.2) = -0.8; -log sigmoid(0.8) = 0.37110."""
    errors = torch.tensor([[0.9, 7.0, 0.4]]), torch.tensor([[0.2, 3.0, 0.5]])
    advantages = torch.tensor([[-1.0, 0.1, 0.9]])
    torch.testing.assert_close(pair_margin(*errors, advantages), torch.tensor([-0.8]))
    loss = diffusion_dpo_loss(*errors, advantages, beta=2.0).loss
    assert float(loss) == pytest.approx(0.371101, rel=1e-5)
