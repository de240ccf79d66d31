"""The losses: values and gradients by hand, and GDPO's against recordings of the released code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gdpo_sr.advantages import group_advantages
from gdpo_sr.group.errors import mean_squared_error
from gdpo_sr.losses import diffusion_dpo_loss, gdpo_loss, grpo_loss, vsd_loss
from gdpo_sr.losses.gdpo_loss import group_gradient_scale, preference_margin
from gdpo_sr.losses.vsd_loss import classifier_free_guidance


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


def test_micro_batches_give_the_gradient_of_the_whole_group():
    """Accumulate grad(A_i l_i) one candidate at a time, then scale by k: one graph at a time."""
    network = torch.nn.Linear(8, 8).double()
    inputs, targets = draw(6, 8).double(), draw(6, 8, seed=1).double()
    advantages = ADVANTAGES[0].double()

    def error(rows: slice) -> torch.Tensor:
        return (network(inputs[rows]) - targets[rows]).square().mean(-1)

    with torch.no_grad():
        reference = error(slice(None)) + 1e-4 * draw(6, seed=2).double()
        margin = preference_margin(error(slice(None)), reference, advantages)
    loss = gdpo_loss(error(slice(None))[None], reference[None], advantages[None]).loss
    whole = torch.autograd.grad(loss, list(network.parameters()))

    for i in range(6):
        (advantages[i] * error(slice(i, i + 1)).sum()).backward()
    scale = group_gradient_scale(margin)
    for parameter, expected in zip(network.parameters(), whole, strict=True):
        torch.testing.assert_close(scale * parameter.grad, expected)


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
    policy = mean_squared_error(prediction, noise).view(2, 6)
    loss = gdpo_loss(policy, mean_squared_error(reference, noise).view(2, 6), advantages).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(2), rel=1e-6)
    torch.testing.assert_close(prediction.grad, expected, atol=1e-5, rtol=1e-5)


# Diffusion-DPO


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


# GRPO


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


def test_grpo_clamps_advantages():
    actions, old, mean = grpo_case(0.1)
    at_limit = grpo_loss(actions, old, mean, 5 * ADVANTAGES.sign()).loss
    torch.testing.assert_close(grpo_loss(actions, old, mean, 1000 * ADVANTAGES).loss, at_limit)


def test_grpo_divergence():
    """A constant distance of 0.2 at sigma 0.1: 0.04 / 0.02 = 2."""
    actions, old, mean = grpo_case(0.1)
    plain = grpo_loss(actions, old, mean, ADVANTAGES)
    held = grpo_loss(actions, old, mean, ADVANTAGES, kl_weight=0.5, reference_mean=old - 0.2)
    assert float(held.logs["kl"]) == pytest.approx(2, rel=1e-5)
    torch.testing.assert_close(held.loss, plain.loss + 0.5 * 2)


# VSD


def test_vsd_gradient():
    """2 g / numel with g = (x_fake - x_real) / mean |z - x_real|, one mean per picture."""
    z, real, fake = (draw(2, 4, 8, 8, seed=seed) for seed in range(3))
    latents = z.clone().requires_grad_()
    output = vsd_loss(latents, real, fake)
    output.loss.backward()
    g = torch.stack([(fake[i] - real[i]) / (z[i] - real[i]).abs().mean() for i in range(2)])
    torch.testing.assert_close(latents.grad, 2 * g / z.numel())
    torch.testing.assert_close(output.loss, g.square().mean())
    torch.testing.assert_close(output.logs["gradient"], g.abs().mean())


def test_vsd_where_the_base_agrees():
    """z = x_real in picture 0: nothing to divide by, no gradient, and picture 1 keeps its own."""
    z, fake = draw(2, 4, 8, 8), draw(2, 4, 8, 8, seed=1)
    real = torch.stack([z[0], draw(4, 8, 8, seed=2)])
    latents = z.clone().requires_grad_()
    vsd_loss(latents, real, fake).loss.backward()
    assert torch.equal(latents.grad[0], torch.zeros(4, 8, 8))
    assert latents.grad[1].isfinite().all() and latents.grad[1].abs().max() > 0


def test_guidance():
    positive, negative = torch.tensor([3.0]), torch.tensor([1.0])
    assert float(classifier_free_guidance(positive, negative, 1.0)) == 3
    assert float(classifier_free_guidance(positive, negative, 7.5)) == 16
