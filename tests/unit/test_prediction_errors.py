"""Errors from the LR picture: one forward pass per group, and where their gradient points."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdpo_sr.checkpoints.lora import add_lora
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.group.errors import (
    GroupErrors,
    NoisyGroup,
    encode_candidates,
    group_from_lr,
    predictions,
)
from gdpo_sr.losses import gdpo_loss
from tests.tiny_base import tiny_base


@pytest.fixture
def generator(tmp_path: Path):
    model = build_generator(load_components(tiny_base(tmp_path / "tiny")))
    torch.manual_seed(0)
    add_lora(model.unet)
    return model


def group(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Candidates (2, 3, 3, 32, 32), LR pictures (2, 3, 32, 32) in [-1, 1], advantages (2, 3)."""
    rng = torch.Generator().manual_seed(seed)
    candidates = torch.rand(2, 3, 3, 32, 32, generator=rng)
    lr = torch.rand(2, 3, 32, 32, generator=rng) * 2 - 1
    advantages = torch.tensor([[1.0, 0.0, -1.0], [-0.5, -0.5, 1.0]])
    return candidates, lr, advantages


def noise_for(generator, count: int) -> torch.Tensor:
    """(2, count, c, h, w), standard normal."""
    shape = generator.latent_shape(torch.empty(2, 3, 32, 32))[1:]
    return torch.randn(2, count, *shape, generator=torch.Generator().manual_seed(3))


def errors(generator, candidates, lr, count: int = 1):
    latents = generator.encode(lr).detach()
    noise = noise_for(generator, count)
    return errors_from_lr(generator, candidates, latents, ["a", "b"], noise)


def errors_from_lr(generator, candidates, lr_latents, prompts, noise) -> GroupErrors:
    latents = encode_candidates(generator, candidates)
    noisy = generator.scheduler.add_noise(lr_latents[:, None], noise)
    made = group_from_lr(generator, latents, noisy, prompts)
    return made.errors(predictions(generator, made.noisy, made.embeds))


def test_policy_equals_reference_at_the_start(generator):
    candidates, lr, advantages = group()
    policy, reference = errors(generator, candidates, lr)
    assert policy.shape == reference.shape == (2, 3)
    torch.testing.assert_close(policy, reference)
    loss = gdpo_loss(policy, reference, advantages).loss
    torch.testing.assert_close(loss, torch.tensor(2.0).log())


def test_error_is_that_of_the_restored_latent(generator):
    """||e - e*||^2 = ||x0hat - z0||^2 abar / sigma^2 at t_diff, x0hat from the LR picture."""
    candidates, lr, _ = group()
    _, reference = errors(generator, candidates, lr)
    scheduler = generator.scheduler
    with torch.no_grad():
        latents = generator.encode(lr)
        noise = noise_for(generator, 1)[:, 0]
        embeds = generator.prompt_encoder(["a", "b"])
        restored = generator.restore_latents(latents, noise, embeds)
        wanted = generator.encode(candidates.flatten(0, 1) * 2 - 1).unflatten(0, (2, 3))
    abar = scheduler.alpha_bar(scheduler.config.t_diff)
    distance = (restored[:, None] - wanted).square().mean(dim=(2, 3, 4)) * abar / (1 - abar)
    torch.testing.assert_close(reference, distance, rtol=1e-4, atol=1e-5)


def test_a_step_moves_the_output_towards_the_winners(generator):
    """Advantages sum to 0, so the output moves along sum_i A_i z0_i."""
    candidates, lr, advantages = group()
    policy, reference = errors(generator, candidates, lr)
    gdpo_loss(policy, reference, advantages, omega=1.0).loss.backward()
    with torch.no_grad():
        for parameter in generator.unet.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
        after, _ = errors(generator, candidates, lr)
    assert float((advantages * (after - policy.detach())).sum()) < 0


def test_each_noise_is_compared_with_its_own_candidate(generator):
    """l_i = l_ii - mean_j l_ij, l_ij from each input alone, with prompts kept in order."""
    candidates, lr, _ = group()
    latents, noise = generator.encode(lr).detach(), noise_for(generator, 3)
    prompts = ["a", "b"]
    together = errors_from_lr(generator, candidates, latents, prompts, noise)
    for i in range(3):
        alone = errors_from_lr(generator, candidates, latents, prompts, noise[:, i : i + 1])
        expected = alone.policy[:, i] - alone.policy.mean(1)
        torch.testing.assert_close(together.policy[:, i], expected, rtol=1e-4, atol=1e-5)


def test_own_errors_pull_an_input_along_its_own_deviation_only():
    """d/d x_i of sum_k A_k (l_kk - mean_j l_kj) = -2 A_i (z_i - mean_j z_j) / elements."""
    rng = torch.Generator().manual_seed(5)
    outputs = torch.randn(1, 3, 2, 4, 4, generator=rng, requires_grad=True)
    targets = torch.randn(1, 3, 2, 4, 4, generator=rng)
    advantages = torch.tensor([[1.2, -0.2, -1.0]])
    wanted = targets[:, None].expand(1, 3, 3, 2, 4, 4)
    made = NoisyGroup(outputs.detach(), outputs.detach(), wanted, outputs.detach())
    (advantages * made.errors(outputs).policy).sum().backward()
    deviation = targets - targets.mean(1, keepdim=True)
    expected = -2 * advantages[..., None, None, None] * deviation / 32
    torch.testing.assert_close(outputs.grad, expected, rtol=1e-4, atol=1e-6)
