"""GRPO: the ratio of a Gaussian policy, its trust region, its divergence."""

from __future__ import annotations

import pytest
import torch

from gdpo_sr.advantages import group_advantages
from gdpo_sr.losses import GroupErrors, grpo_loss
from gdpo_sr.losses.grpo import GRPOLoss, clipped_loss


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


ADVANTAGES = group_advantages(draw(2, 6))
REFERENCE = 1 + 0.1 * draw(2, 6, seed=1)


def grpo_case(spread: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Actions, mean of the policy that sampled, and the same mean with a graph."""
    old = draw(2, 6, 4, 3, 3)
    return old + spread * draw(2, 6, 4, 3, 3, seed=1), old, old.clone().requires_grad_()


def test_grpo_learns_nothing_without_exploration():
    """xi = 0: x is the peak of its own density, so the first gradient is zero."""
    actions, old, mean = grpo_case(0.0)
    output = grpo_loss(actions, old, mean, ADVANTAGES)
    output.loss.backward()
    assert float(output.logs["ratio"]) == 1
    assert torch.equal(mean.grad, torch.zeros_like(mean))


def test_first_gradient_of_grpo():
    """Ratio 1: d loss / d mean = -A / (B G) * (x - mean) / (sigma^2 c h w): to good actions."""
    actions, old, mean = grpo_case(0.1)
    grpo_loss(actions, old, mean, ADVANTAGES, sigma=0.1).loss.backward()
    direction = (actions - old) / (0.1**2 * 36)
    expected = -ADVANTAGES[..., None, None, None] / 12 * direction
    torch.testing.assert_close(mean.grad, expected, rtol=1e-4, atol=1e-6)


def test_grpo_clips_the_ratio():
    """A good action already likelier than 1 + clip has no gradient left, a bad one has."""
    actions, old, _ = grpo_case(0.1)
    mean = (old + 0.1 * (actions - old)).requires_grad_()
    advantages = torch.ones(2, 6)
    advantages[1] = -1
    output = grpo_loss(actions, old, mean, advantages)
    output.loss.backward()
    assert float(output.logs["clipped"]) == 1 and float(output.logs["ratio"]) > 1
    assert torch.equal(mean.grad[0], torch.zeros_like(mean[0]))
    assert (mean.grad[1].flatten(1).norm(dim=1) > 0).all()


def test_defaults_of_grpo_by_hand():
    """Nothing has moved: r = 1, and advantages of 10 count as 5, so the loss is -5. A reference
    0.2 away is KL 0.04 / (2 * 0.01) = 2, which weighs nothing.
    """
    x = torch.zeros(1, 2, 4, 3, 3)
    output = grpo_loss(x, x, x, torch.full((1, 2), 10.0), reference_mean=x + 0.2)
    assert float(output.loss) == -5
    assert float(output.logs["kl"]) == pytest.approx(2, rel=1e-5)


def test_defaults_of_the_clipped_loss_by_hand():
    """A = 10 counts as 5, r = 2 as 1.0001: max(-10, -5.0005)."""
    output = clipped_loss(torch.tensor([2.0]), torch.tensor([10.0]))
    assert float(output.loss) == pytest.approx(-5.0005, rel=1e-7)


def test_grpo_divergence():
    """A constant distance of 0.2 at sigma 0.1: 0.04 / 0.02 = 2."""
    actions, old, mean = grpo_case(0.1)
    plain = grpo_loss(actions, old, mean, ADVANTAGES)
    held = grpo_loss(actions, old, mean, ADVANTAGES, kl_weight=0.5, reference_mean=old - 0.2)
    assert float(held.logs["kl"]) == pytest.approx(2, rel=1e-5)
    torch.testing.assert_close(held.loss, plain.loss + 0.5 * 2)


def test_log_ratio_by_hand():
    """sigma = 0.5: squared distances 0.30 of who acted and 0.25 now: exp(0.05 / 0.5) = 1.10517."""
    errors = GroupErrors(torch.tensor([[0.25]]), torch.tensor([[0.30]]))
    logs = GRPOLoss(sigma=0.5)(errors, torch.tensor([[1.0]])).logs
    assert float(logs["ratio"]) == pytest.approx(1.105171, rel=1e-5)


def test_clipping_by_hand():
    """A = 1, r = 1.5, clip 0.2: max(-1.5, -1.2) = -1.2; A = -1: max(1.5, 1.2) = 1.5; r = 0.5:
    max(-0.5, -0.8) = -0.5 and max(0.5, 0.8) = 0.8. Mean 0.15; all four are outside the region.
    """
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5])
    output = clipped_loss(ratio, torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2)
    assert float(output.loss) == pytest.approx((-1.2 + 1.5 - 0.5 + 0.8) / 4, rel=1e-6)
    assert float(output.logs["clipped"]) == 1 and float(output.logs["ratio"]) == 1


def test_a_ratio_inside_the_region_is_not_clipped():
    """Nor one on its border: of 0.75, 1.25, 1.5 and 1.75 only the last is outside 1 +- 0.5."""
    logs = clipped_loss(torch.tensor([0.75, 1.25, 1.5, 1.75]), torch.ones(4), 0.5).logs
    assert float(logs["clipped"]) == 0.25


def test_options_reach_the_loss():
    """Distance from the reference 0.04 at sigma 0.1: KL 2; only a weight asks for it."""
    loss = GRPOLoss(kl_weight=0.5, advantage_clip=2.0)
    errors = GroupErrors(*[torch.ones(1, 2)] * 2, torch.full((1, 2), 0.04))
    assert float(loss(errors, torch.tensor([[9.0, 0.0]])).loss) == pytest.approx(-1 + 1)
    assert loss.needs_drift and not GRPOLoss().needs_drift
    assert loss.acts and loss.action_sigma == 0.1
