"""The real and the fake score of VSD: prediction types, timesteps, and that they start equal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.checkpoints.lora import lora_parameters
from gdpo_sr.generators.diffusion_math import add_noise, velocity
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.one_step import OneStepScheduler
from gdpo_sr.stage1.score_networks import ScoreNetworks
from tests.tiny_base import tiny_base


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LATENTS, NOISE = draw(3, 4, 8, 8), draw(3, 4, 8, 8, seed=1)


class PerfectUNet(nn.Module):
    """Knows `LATENTS`, so that it predicts the noise in them exactly."""

    def __init__(self, scheduler: OneStepScheduler) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.timesteps: list[torch.Tensor] = []

    def forward(self, noisy: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor):
        self.timesteps.append(t)
        alpha_bar = self.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        latents = LATENTS.repeat(len(noisy) // len(LATENTS), 1, 1, 1)
        noise = (noisy - alpha_bar**0.5 * latents) / (1 - alpha_bar) ** 0.5
        if self.scheduler.config.prediction_type == "v_prediction":
            return SimpleNamespace(sample=velocity(latents, noise, alpha_bar))
        return SimpleNamespace(sample=noise)


def perfect_score(prediction_type: str) -> ScoreNetworks:
    scheduler = OneStepScheduler(prediction_type=prediction_type)
    return ScoreNetworks(PerfectUNet(scheduler), scheduler, lambda texts: draw(len(texts), 5, 8))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_leaves_nothing_to_learn(prediction_type: str):
    """Noise or velocity: the fake loss is 0, x0 is the latent itself, and so VSD is 0."""
    score, t, text = perfect_score(prediction_type), torch.tensor([5, 300, 900]), draw(3, 5, 8)
    loss = score.fake_loss_for_noise(LATENTS, t, NOISE, text)
    assert float(loss) < 1e-6
    x0_error = score.distill_for_noise(LATENTS + 0.5, torch.tensor([5, 50, 300]), NOISE, text, text)
    assert float(x0_error.logs["gradient"]) < 1e-3


def test_timesteps_are_drawn_from_their_ranges():
    """VSD: 2 % to 50 % of 1000 steps; the fake score: all; one per latent."""
    score, rng = perfect_score("epsilon"), torch.Generator().manual_seed(0)
    for _ in range(200):
        score.distill(LATENTS, ["a"] * 3, rng)
    of_distillation = torch.cat(score.unet.timesteps[::2])  # the fake's pass, then the real's
    assert len(of_distillation) == 600
    assert 20 <= int(of_distillation.min()) < 30 and 490 < int(of_distillation.max()) < 500
    score.unet.timesteps.clear()
    for _ in range(200):
        score.fake_loss(LATENTS, ["a"] * 3, rng)
    of_training = torch.cat(score.unet.timesteps)
    assert int(of_training.min()) < 20 and int(of_training.max()) > 980


@pytest.mark.parametrize("shared", [True, False])
def test_a_fresh_fake_score_is_the_real_one(tmp_path, shared: bool):
    """Without guidance VSD is then exactly 0, whatever the generator's own adapters have become."""
    generator = build_generator(load_components(tiny_base(tmp_path / "tiny")))
    plain = build_generator(load_components(tmp_path / "tiny"))
    adapters = GeneratorAdapters(generator.unet, generator.vae)
    adapters.add()
    with torch.no_grad():
        for parameter in adapters.parameters().values():
            parameter.add_(0.1)
    source = generator if shared else plain
    score = ScoreNetworks(
        source.unet,
        source.scheduler,
        source.prompt_encoder,
        cfg_scale=1.0,
        generator_adapters=adapters if shared else None,
    )
    before = lora_parameters(generator.unet, "default")
    fake = score.add_fake_lora()
    assert fake and all(p.requires_grad for p in [*before, *fake.values()])
    latents, t = draw(2, 12, 16, 16), torch.tensor([30, 400])
    text = source.prompt_encoder(["a", "b"])
    output = score.distill_for_noise(latents, t, draw(2, 12, 16, 16, seed=1), text, text)
    # both passes see the same values in batches of another size
    assert float(output.logs["gradient"]) < 1e-4

    noisy = add_noise(latents, draw(2, 12, 16, 16, seed=1), 0.5)
    with torch.no_grad():
        expected = plain.unet(noisy, t, text).sample
        for context in (score.fake, score.real):
            with context():
                torch.testing.assert_close(score.unet(noisy, t, text).sample, expected)
        if shared:
            assert (generator.unet(noisy, t, text).sample - expected).abs().max() > 1e-2
