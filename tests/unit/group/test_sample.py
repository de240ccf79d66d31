"""Groups: which noise makes which candidate, who samples, and the one-step formulas by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdpo_sr.checkpoints.lora import adapters_disabled, add_lora
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.group.sample import (
    Group,
    GroupNoise,
    Sampling,
    enlarge_lr,
    in_chunks,
    repeat_prompts,
    restore_group,
    sample_group,
)
from gdpo_sr.types import SRBatch


@pytest.fixture(scope="module")
def network(base: Path) -> NoiseAwareGenerator:
    """Its policy has moved."""
    model = build_generator(load_components(base))
    for parameter in add_lora(model.unet, dropout=0.5):
        rng = torch.Generator().manual_seed(parameter.numel())
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=rng))
    return model


def batch() -> SRBatch:
    """Two pictures of 32 px with different prompts."""
    rng = torch.Generator().manual_seed(0)
    lr, hr = torch.rand(2, 3, 8, 8, generator=rng), torch.rand(2, 3, 32, 32, generator=rng)
    return SRBatch(lr, hr, ["a", "b"], ["x", "y"])


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_each_candidate_has_its_own_noise_and_its_pictures_prompt(network):
    """Posterior noise (B, c, h, w), then injected (B, G, c, h, w), drawn in this order; each
    candidate is what the network makes of its own.
    """
    group = sample_group(network, batch(), 3, rng())
    draws = rng()
    posterior = torch.randn(2, 12, 8, 8, generator=draws)
    injected = torch.randn(2, 3, 12, 8, 8, generator=draws)
    enlarged = enlarge_lr(batch().lr, batch().hr)
    with torch.no_grad(), adapters_disabled(network.unet):
        z_lr = network.encode(enlarged, posterior)
        for b, prompt in enumerate(["a", "b"]):
            embeds = network.prompt_encoder([prompt])
            for g in range(3):
                latents = network.restore_latents(z_lr[b][None], injected[b, g][None], embeds)
                image = network.decode(latents)[0] / 2 + 0.5
                torch.testing.assert_close(group.images[b, g], image, rtol=1e-4, atol=1e-5)
    assert torch.equal(group.enlarged, enlarged) and group.prompts == ["a", "b"]
    assert group.images.dtype == torch.float32 and not group.by_policy


def test_one_step_by_hand(network):
    """t_add = 250, t_diff = 100: abar 0.673792 and 0.894223.

    state = 0.820848 z + 0.571147 n;  z0 = (state - 0.325234 e) / 0.945633.
    """
    noise = GroupNoise(None, torch.randn(2, 2, 12, 8, 8, generator=rng()))
    enlarged = enlarge_lr(batch().lr, batch().hr)
    group = restore_group(network, enlarged, ["a", "b"], noise)
    with torch.no_grad():
        z = network.encode(enlarged)[:, None]
    state = 0.820848 * z + 0.571147 * noise.injected
    torch.testing.assert_close(group.states, state, rtol=1e-4, atol=1e-4)
    clean = (group.states - 0.325234 * group.epsilon) / 0.945633
    torch.testing.assert_close(group.latents, clean, rtol=1e-4, atol=1e-4)


def test_who_samples(network):
    """The reference, or the policy without its dropout; the random draws are the same."""
    network.unet.train()
    reference = sample_group(network, batch(), 2, rng())
    policy, again = (sample_group(network, batch(), 2, rng(), Sampling(True)) for _ in range(2))
    assert torch.equal(policy.images, again.images) and policy.by_policy
    assert torch.equal(policy.states, reference.states)
    assert (policy.images - reference.images).abs().max() > 1e-3
    with adapters_disabled(network.unet):
        assert torch.equal(
            sample_group(network, batch(), 2, rng(), Sampling(True)).images, reference.images
        )
    assert any(m.training for m in network.unet.modules() if isinstance(m, torch.nn.Dropout))


def test_chunks_change_nothing(network):
    whole = sample_group(network, batch(), 3, rng())
    parts = sample_group(network, batch(), 3, rng(), Sampling(chunk=2))
    torch.testing.assert_close(parts.images, whole.images, rtol=1e-4, atol=1e-5)


def test_actions_are_the_mean_and_noise_of_their_own(network):
    """x = mu + 0.5 xi, xi the third draw; the pictures show x."""
    plain, acted = (
        sample_group(network, batch(), 3, rng(), Sampling(action_sigma=s)) for s in (0.0, 0.5)
    )
    draws = rng()
    for shape in ((2, 12, 8, 8), (2, 3, 12, 8, 8)):
        torch.randn(shape, generator=draws)
    xi = torch.randn(2, 3, 12, 8, 8, generator=draws)
    torch.testing.assert_close(acted.latents, plain.latents + 0.5 * xi, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        images = network.decode(acted.latents.flatten(0, 1)) / 2 + 0.5
    torch.testing.assert_close(acted.images.flatten(0, 1), images, rtol=1e-4, atol=1e-5)


def test_one_noise_at_several_steps(network):
    """`t_adds`: the first candidate has the least noise; the usual state is at the own t_add."""
    group = sample_group(network, batch(), 3, rng(), Sampling(t_adds=(100, 250, 400)))
    draws = rng()
    posterior = torch.randn(2, 12, 8, 8, generator=draws)
    noise = torch.randn(2, 1, 12, 8, 8, generator=draws)
    with torch.no_grad():
        z = network.encode(group.enlarged, posterior)
    for g, t_add in enumerate((100, 250, 400)):
        state = network.scheduler.add_noise(z, noise[:, 0], t_add)
        torch.testing.assert_close(group.states[:, g], state, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(group.usual_state, group.states[:, 1:2])
    assert sample_group(network, batch(), 3, rng()).usual_state is None


def test_enlarging_by_hand():
    """A grey of 0.75 is 0.5 in [-1, 1]; overshoot of the cubic beside an edge is clipped."""
    hr = torch.zeros(1, 3, 8, 8)
    assert torch.allclose(enlarge_lr(torch.full((1, 3, 2, 2), 0.75), hr), torch.tensor(0.5))
    edge = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 3, 4, 4)
    assert enlarge_lr(edge, torch.zeros(1, 3, 16, 16)).abs().max() == 1


def test_prompts_go_picture_by_picture():
    assert repeat_prompts(["a", "b"], 2) == ["a", "a", "b", "b"]


@pytest.mark.parametrize(("chunk", "sizes"), [(None, [5]), (5, [5]), (9, [5]), (2, [2, 2, 1])])
def test_chunks_by_hand(chunk: int | None, sizes: list[int]):
    seen = []

    def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append(len(a))
        return a + b

    a, b = torch.arange(5.0), 10 * torch.arange(5.0)
    assert torch.equal(in_chunks(add, chunk, a, b), a + b) and seen == sizes


def test_chunks_of_unequal_tensors_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        in_chunks(torch.add, 2, torch.zeros(4), torch.zeros(6))


def test_the_defaults_are_the_released_step():
    assert Sampling() == Sampling(False, None, False, 0.0, None)
    nothing = torch.empty(0)
    group = Group(nothing, [], nothing, nothing, nothing, nothing)
    assert group.usual_state is None and group.by_policy is False
