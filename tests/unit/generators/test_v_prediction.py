"""A base that predicts velocity against the same base that predicts noise: equal results.

The velocity network is the noise network with its output written as v = (e - sqrt(1-a) z_t) /
sqrt(a), which is v = sqrt(a) e - sqrt(1-a) z_0 for the z_0 that e stands for.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gdpo_sr.checkpoints.lora import add_lora, lora_parameters
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.generators.one_step import OneStepScheduler
from gdpo_sr.group.errors import Comparison, prediction_errors
from gdpo_sr.group.sample import Group
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.stage1.score_networks import ScoreNetworks
from gdpo_sr.types import CheckpointError
from tests.tiny_base import tiny_base


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def predict_velocity(unet: nn.Module, scheduler: OneStepScheduler) -> None:
    """Write what a UNet that predicts noise gives as velocity."""

    def convert(module: nn.Module, given: tuple, output: SimpleNamespace) -> SimpleNamespace:
        noisy, t = given
        alpha_bar = scheduler.alphas_cumprod[torch.as_tensor(t)].view(-1, 1, 1, 1)
        sample = (output.sample - (1 - alpha_bar) ** 0.5 * noisy) / alpha_bar**0.5
        return SimpleNamespace(sample=sample)

    unet.register_forward_hook(convert)


def as_velocity(folder: Path) -> Path:
    """Make the base in `folder` one that predicts velocity."""
    file = folder / "scheduler" / "scheduler_config.json"
    config = {**json.loads(file.read_text()), "prediction_type": "v_prediction"}
    file.write_text(json.dumps(config))
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[NoiseAwareGenerator, NoiseAwareGenerator]:
    """The same function, predicting noise and predicting velocity; both with a LoRA that acts."""
    generators = []
    for name in ("epsilon", "v_prediction"):
        generator = build_generator(load_components(tiny_base(tmp_path / name)))
        torch.manual_seed(0)
        add_lora(generator.unet)
        for parameter in lora_parameters(generator.unet):
            nn.init.normal_(parameter, std=0.05)
        generators.append(generator)
    velocity = generators[1]
    velocity.scheduler = OneStepScheduler(prediction_type="v_prediction")
    predict_velocity(velocity.unet, velocity.scheduler)
    return generators[0], velocity


def test_a_base_that_predicts_velocity(tmp_path: Path):
    """x0 = sqrt(a) z_t - sqrt(1-a) v, from the UNet's raw output, through the whole pipeline."""
    pipe = OneStepSRPipeline.from_pretrained(as_velocity(tiny_base(tmp_path / "v")))
    g, latents, noise = pipe.generator, draw(2, 12, 16, 16), draw(2, 12, 16, 16, seed=1)
    embeds = g.prompt_encoder(["a", "b"])
    noisy = g.scheduler.add_noise(latents, noise)
    v = g.unet(noisy, g.scheduler.config.t_diff, encoder_hidden_states=embeds).sample
    alpha_bar = g.scheduler.alpha_bar(g.scheduler.config.t_diff)
    expected = alpha_bar**0.5 * noisy - (1 - alpha_bar) ** 0.5 * v
    torch.testing.assert_close(g.restore_latents(latents, noise, embeds), expected)
    assert pipe(torch.rand(3, 16, 16), output_type="pt").images.shape == (1, 3, 64, 64)


def test_restored_latents_are_equal(pair):
    epsilon, velocity = pair
    latents, noise, embeds = draw(2, 12, 16, 16), draw(2, 12, 16, 16, seed=1), draw(2, 8, 16)
    expected = epsilon.restore_latents(latents, noise, embeds)
    torch.testing.assert_close(velocity.restore_latents(latents, noise, embeds), expected)


@pytest.mark.parametrize("target", ["noise", "x0"])
def test_errors_of_stage_2_are_equal(pair, target: str):
    candidates = torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    results = []
    for generator in pair:
        rng = torch.Generator().manual_seed(4)
        latents = torch.zeros(2, 3, 12, 16, 16)
        group = Group(candidates[:, 0], ["a", "b"], candidates, latents, latents, latents)
        errors = prediction_errors(generator, group, rng, Comparison(target=target))
        errors.policy.sum().backward()
        results.append((*errors[:2], *(p.grad for p in lora_parameters(generator.unet))))
    assert (results[0][0] - results[0][1]).abs().min() > 1e-6
    for epsilon, velocity in zip(*results, strict=True):
        torch.testing.assert_close(velocity, epsilon, rtol=1e-4, atol=1e-5)


def test_distillation_of_stage_1_is_equal(pair):
    t, text, negative = torch.tensor([30, 400]), draw(2, 8, 16), draw(2, 8, 16, seed=5)
    gradients = []
    for generator in pair:
        score = ScoreNetworks(generator.unet, generator.scheduler, generator.prompt_encoder)
        latents = draw(2, 12, 16, 16).requires_grad_()
        output = score.distill_for_noise(latents, t, draw(2, 12, 16, 16, seed=1), text, negative)
        output.loss.backward()
        gradients.append(latents.grad)
    assert gradients[0].abs().max() > 1e-6
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("key", ["trained_betas", "rescale_betas_zero_snr"])
def test_another_noise_schedule_is_refused(tmp_path: Path, key: str):
    """It would be ignored otherwise, and every restoration be a little wrong."""
    base = as_velocity(tiny_base(tmp_path / "v"))
    file = base / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: [0.1]}))
    with pytest.raises(CheckpointError, match=f"{key} = .* is not supported"):
        load_components(base)
