"""Variational score distillation: its gradient, and where the base agrees."""

from __future__ import annotations

import torch

from gdpo_sr.losses import vsd_loss
from gdpo_sr.losses.vsd_loss import classifier_free_guidance


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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
    assert float(classifier_free_guidance(positive, negative)) == 16


def test_vsd_where_all_agree():
    """0 / 0 is no gradient."""
    z = draw(1, 4, 8, 8).requires_grad_()
    output = vsd_loss(z, z.detach(), z.detach())
    output.loss.backward()
    assert float(output.loss.detach()) == 0 and torch.equal(z.grad, torch.zeros_like(z))
