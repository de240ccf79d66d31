"""Errors from the LR picture: one forward pass per group, and where their gradient points."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdpo_sr.checkpoints.lora import adapters_disabled, add_lora
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.group.errors import (
    Comparison,
    GroupInputs,
    candidate_latents,
    draw_update_noise,
    group_inputs,
    latent_unit,
    prediction_errors,
)
from gdpo_sr.group.sample import Group, group_embeds, predict_group
from gdpo_sr.losses import GroupErrors, gdpo_loss
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


def group_of(generator, candidates, states, prompts, by_policy: bool = False) -> Group:
    """A group of given pictures (B, G, 3, H, W) in [0, 1] and states (B, N, c, h, w)."""
    latents = generator.encode(candidates.flatten(0, 1) * 2 - 1).detach()
    latents = latents.unflatten(0, candidates.shape[:2])
    embeds = group_embeds(generator, prompts, states.shape[1])
    with torch.no_grad(), adapters_disabled(generator.unet):
        epsilon = predict_group(generator, states, embeds)
    return Group(candidates[:, 0], prompts, candidates, latents, states, epsilon, None, by_policy)


def errors_from_lr(generator, candidates, lr_latents, prompts, noise, **changes) -> GroupErrors:
    states = generator.scheduler.add_noise(lr_latents[:, None], noise)
    group = group_of(generator, candidates, states, prompts)
    return prediction_errors(generator, group, torch.Generator(), Comparison("lr", "x0", **changes))


def test_policy_equals_reference_at_the_start(generator):
    candidates, lr, advantages = group()
    policy, reference, _ = errors(generator, candidates, lr)
    assert policy.shape == reference.shape == (2, 3)
    torch.testing.assert_close(policy, reference)
    loss = gdpo_loss(policy, reference, advantages).loss
    torch.testing.assert_close(loss, torch.tensor(2.0).log())


def test_error_is_that_of_the_restored_latent(generator):
    """||e - e*||^2 = ||x0hat - z0||^2 abar / sigma^2 at t_diff, x0hat from the LR picture."""
    candidates, lr, _ = group()
    _, reference, _ = errors(generator, candidates, lr)
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
    policy, reference, _ = errors(generator, candidates, lr)
    gdpo_loss(policy, reference, advantages, omega=1.0).loss.backward()
    with torch.no_grad():
        for parameter in generator.unet.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
        after, _, _ = errors(generator, candidates, lr)
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
    made = GroupInputs(outputs.detach(), outputs.detach(), wanted, outputs.detach())
    (advantages * made.errors(outputs).policy).sum().backward()
    deviation = targets - targets.mean(1, keepdim=True)
    expected = -2 * advantages[..., None, None, None] * deviation / 32
    torch.testing.assert_close(outputs.grad, expected, rtol=1e-4, atol=1e-6)


def moved(generator) -> None:
    """The policy, away from the reference."""
    for parameter in generator.unet.parameters():
        if parameter.requires_grad:
            rng = torch.Generator().manual_seed(parameter.numel())
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=rng))


def candidate_case(generator, **changes) -> tuple[GroupErrors, dict[str, torch.Tensor]]:
    """Errors on noised candidates, and what they must be made of, drawn here again."""
    moved(generator)
    candidates, _, _ = group()
    made = group_of(generator, candidates, noise_for(generator, 3), ["a", "b"])
    rng = torch.Generator().manual_seed(7)
    found = prediction_errors(generator, made, rng, Comparison("candidate", **changes))
    rng = torch.Generator().manual_seed(7)
    shape = made.latents.shape
    posterior = torch.randn(shape, generator=rng)
    same = changes.get("same_noise", False)
    noise = torch.randn(2, 1 if same else 3, *shape[2:], generator=rng).expand(shape)
    with torch.no_grad():
        z0 = generator.encode(candidates.flatten(0, 1) * 2 - 1, posterior.flatten(0, 1))
        z0 = made.latents if changes.get("reuse_latents") else z0.unflatten(0, (2, 3))
        noisy = generator.scheduler.add_noise(z0, noise)
        embeds = group_embeds(generator, ["a", "b"], 3)
        policy = predict_group(generator, noisy, embeds)
        with adapters_disabled(generator.unet):
            reference = predict_group(generator, noisy, embeds)
    return found, {"z0": z0, "noise": noise, "noisy": noisy, "p": policy, "r": reference}


@pytest.mark.parametrize("same_noise", [False, True])
@pytest.mark.parametrize("reuse", [False, True])
def test_the_papers_error_is_of_the_injected_noise(generator, same_noise: bool, reuse: bool):
    """l_i = mean (UNet(z_i, t_diff) - n_i)^2, z_i = add_noise(E(image_i), n_i, t_add)."""
    found, m = candidate_case(generator, same_noise=same_noise, reuse_latents=reuse)
    for name, prediction in (("policy", m["p"]), ("reference", m["r"])):
        expected = (prediction - m["noise"]).square().mean((2, 3, 4))
        torch.testing.assert_close(getattr(found, name), expected, rtol=1e-4, atol=1e-5)
    assert (found.policy - found.reference).abs().min() > 1e-6 and found.drift is None


def test_target_x0_by_hand(generator):
    """e* = (z_i - sqrt(abar) z0_i) / sigma with sqrt(abar) = 0.945633, sigma = 0.325234 at t = 100,
    and ||x0hat - z0||^2 = 0.11829 ||e - e*||^2.
    """
    found, m = candidate_case(generator, target="x0")
    wanted = (m["noisy"] - 0.945633 * m["z0"]) / 0.325234
    expected = (m["p"] - wanted).square().mean((2, 3, 4))
    torch.testing.assert_close(found.policy, expected, rtol=1e-3, atol=1e-4)
    x0 = (m["noisy"] - 0.325234 * m["p"]) / 0.945633
    distance = (x0 - m["z0"]).square().mean((2, 3, 4))
    torch.testing.assert_close(0.11829 * found.policy, distance, rtol=1e-3, atol=1e-4)
    assert latent_unit(generator) == pytest.approx(0.11829, abs=1e-5)


def test_errors_per_element_average_to_the_whole(generator):
    whole, _ = candidate_case(generator)
    found, _ = candidate_case(generator, per_element=True)
    assert found.policy.shape == (2, 3, 8, 8)
    torch.testing.assert_close(found.policy.mean((2, 3)), whole.policy)


def test_posterior_noise_and_noise_to_add_are_drawn_in_this_order(generator):
    latents = torch.zeros(2, 3, 4, 5, 5)
    posterior, noise = draw_update_noise(latents, torch.Generator().manual_seed(0), same=True)
    rng = torch.Generator().manual_seed(0)
    assert torch.equal(posterior, torch.randn(2, 3, 4, 5, 5, generator=rng))
    assert torch.equal(noise, torch.randn(2, 1, 4, 5, 5, generator=rng).expand_as(noise))


def test_latents_are_encoded_picture_by_picture_or_reused(generator):
    candidates, _, _ = group()
    made = group_of(generator, candidates, noise_for(generator, 3), ["a", "b"])
    chunked = candidate_latents(generator, made, None, Comparison(chunk=2))
    torch.testing.assert_close(chunked, made.latents, rtol=1e-4, atol=1e-5)
    assert candidate_latents(generator, made, None, Comparison(reuse_latents=True)) is made.latents


def test_imitation_takes_the_mean_over_inputs(generator):
    """l_j = mean_i l_ij: whatever the noise, the output is to be candidate j."""
    candidates, lr, _ = group()
    latents, noise = generator.encode(lr).detach(), noise_for(generator, 3)
    together = errors_from_lr(generator, candidates, latents, ["a", "b"], noise, imitate=True)
    alone = [
        errors_from_lr(generator, candidates, latents, ["a", "b"], noise[:, i : i + 1]).policy
        for i in range(3)
    ]
    torch.testing.assert_close(together.policy, sum(alone) / 3, rtol=1e-4, atol=1e-5)


def test_what_the_sampler_predicted_is_not_asked_again(generator, monkeypatch):
    """From the LR picture with reference samples; the policy's samples, or one usual state, are."""
    candidates, lr, _ = group()
    states = generator.scheduler.add_noise(generator.encode(lr).detach()[:, None],
                                           noise_for(generator, 3))  # fmt: skip
    moved(generator)
    by_reference, by_policy = (
        group_of(generator, candidates, states, ["a", "b"], flag) for flag in (False, True)
    )
    by_policy.epsilon = torch.zeros_like(by_policy.epsilon)  # not the reference's
    usual = group_of(generator, candidates, states, ["a", "b"])
    usual.usual_state = states[:, :1]
    asked = []
    predict = generator.predict_epsilon
    monkeypatch.setattr(
        generator, "predict_epsilon", lambda n, *a: asked.append(len(n)) or predict(n, *a)
    )
    made = [
        group_inputs(generator, g, torch.Generator(), Comparison("lr", "x0"))
        for g in (by_reference, by_policy, usual)
    ]
    assert asked == [6, 2]
    torch.testing.assert_close(made[1].reference_epsilon, made[0].reference_epsilon)
    assert made[2].noisy.shape[1] == 1 and made[2].wanted.shape[1:3] == (1, 3)


def test_actions_are_compared_with_who_took_them(generator):
    """In squared distances of clean latents; lref is of who sampled, drift from the base."""
    moved(generator)
    candidates, lr, _ = group()
    states = generator.scheduler.add_noise(generator.encode(lr).detach()[:, None],
                                           noise_for(generator, 3))  # fmt: skip
    made = group_of(generator, candidates, states, ["a", "b"], by_policy=True)
    base = made.epsilon
    made.epsilon = base + 0.5
    comparison = Comparison("action", drift=True)
    found = prediction_errors(generator, made, torch.Generator(), comparison)
    clean = generator.scheduler.predict_x0
    old = (clean(states, made.epsilon) - made.latents).square().mean((2, 3, 4))
    torch.testing.assert_close(found.reference, old, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        now = predict_group(generator, states, group_embeds(generator, ["a", "b"], 3))
    drift = (clean(states, now) - clean(states, base)).square().mean((2, 3, 4))
    torch.testing.assert_close(found.drift, drift, rtol=1e-3, atol=1e-4)


def test_half_precision_predictions_become_float32():
    whole = torch.zeros(1, 2, 3, 4, 4, dtype=torch.bfloat16)
    found = GroupInputs(whole, whole, whole + 1, whole).errors(whole)
    assert found.policy.dtype == torch.float32 and torch.equal(found.policy, torch.ones(1, 2))


def test_drift_where_every_candidate_is_the_target_of_all_inputs():
    """Two inputs, three candidates: what both inputs moved, as their errors against a candidate."""
    draws = torch.randn(3, 1, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    noisy, reference, policy = draws
    wanted = torch.randn(1, 2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    inputs = GroupInputs(noisy, noisy, wanted, reference, anchor=reference, imitate=True)
    found = inputs.errors(policy)
    moved = (policy - reference).square().mean((-3, -2, -1))
    assert found.policy.shape == (1, 3) and found.drift is not None
    torch.testing.assert_close(found.drift, moved.mean(1, keepdim=True))
    own = GroupInputs(noisy, noisy, wanted, reference, anchor=reference).errors(policy).drift
    torch.testing.assert_close(own, moved)


def test_drift_is_of_every_input_where_each_has_its_own_target():
    """Also for a loss that imitates: distances 1 and 4 of two inputs."""
    reference = torch.zeros(1, 2, 4, 4, 4)
    policy = torch.stack([torch.ones(4, 4, 4), torch.full((4, 4, 4), 2.0)])[None]
    made = GroupInputs(policy, policy, policy, reference, anchor=reference, imitate=True)
    assert made.errors(policy).drift.tolist() == [[1, 4]]


def test_the_defaults_are_the_released_step():
    assert Comparison() == Comparison("candidate", "noise", False, False, False, False, False, None)
    nothing = torch.empty(0)
    made = GroupInputs(nothing, nothing, nothing, nothing)
    assert (made.anchor, made.unit, made.per_element, made.imitate) == (None, 1.0, False, False)
