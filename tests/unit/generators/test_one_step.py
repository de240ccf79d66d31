"""OneStepScheduler: two timesteps that are saved with the model, and its arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gdpo_sr.generators.diffusion_math import add_noise
from gdpo_sr.generators.one_step import OneStepScheduler
from gdpo_sr.types import OptionError

STABLE_DIFFUSION = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.8.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def draw(seed: int) -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def write_config(folder: Path, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    text = json.dumps({**STABLE_DIFFUSION, **changes})
    (folder / "scheduler_config.json").write_text(text, encoding="utf-8")
    return folder


def test_timesteps_survive_saving(tmp_path: Path):
    scheduler = OneStepScheduler(t_add=300)
    scheduler.set_timesteps_pair(t_diff=77)
    scheduler.save_pretrained(tmp_path)
    loaded = OneStepScheduler.from_pretrained(tmp_path)
    assert (loaded.config.t_add, loaded.config.t_diff) == (300, 77)
    assert torch.equal(loaded.alphas_cumprod, scheduler.alphas_cumprod)


def test_plain_stable_diffusion_config(tmp_path: Path):
    """The scheduler of a base that knows nothing of t_add: the paper's timesteps, its schedule."""
    scheduler = OneStepScheduler.from_pretrained(write_config(tmp_path))
    assert (scheduler.config.t_add, scheduler.config.t_diff) == (250, 100)
    assert scheduler.alpha_bar(250) == pytest.approx(0.67379230260849, rel=1e-6)
    assert scheduler.alpha_bar(100) == pytest.approx(0.894223153591156, rel=1e-6)


def test_minus_one_is_no_noise():
    """For `t_add` alone: whatever is drawn, the latents stay."""
    scheduler = OneStepScheduler(t_add=-1)
    assert torch.equal(scheduler.add_noise(draw(0), draw(1)), draw(0))
    assert torch.equal(OneStepScheduler().add_noise(draw(0), draw(1), -1), draw(0))
    with pytest.raises(OptionError, match="t_diff = -1: choose an integer in 0 .. 999"):
        OneStepScheduler(t_diff=-1)


def test_a_residual_is_taken_away():
    scheduler = OneStepScheduler(prediction_type="residual", t_diff=1)
    epsilon = scheduler.to_epsilon(draw(0), draw(1))
    torch.testing.assert_close(scheduler.predict_x0(draw(0), epsilon), draw(0) - draw(1))


@pytest.mark.parametrize("name", ["t_add", "t_diff"])
@pytest.mark.parametrize("value", [-2, 1000, 250.5])
def test_timesteps_out_of_range(name: str, value: float):
    message = f"{name} = {value}: .* 0 .. 999"
    with pytest.raises(OptionError, match=message):
        OneStepScheduler(**{name: value})
    scheduler = OneStepScheduler()
    with pytest.raises(OptionError, match=message):
        scheduler.set_timesteps_pair(**{name: value})
    assert (scheduler.config.t_add, scheduler.config.t_diff) == (250, 100)


def test_timestep_out_of_range_in_a_call():
    with pytest.raises(OptionError, match="t_add = 1000"):
        OneStepScheduler().add_noise(draw(0), draw(1), t_add=1000)


def test_unknown_prediction_type():
    with pytest.raises(OptionError, match="'flow'"):
        OneStepScheduler(prediction_type="flow")


def test_t_add_of_one_call():
    """It replaces the saved one for that call alone."""
    scheduler = OneStepScheduler()
    once = scheduler.add_noise(draw(0), draw(1), t_add=500)
    torch.testing.assert_close(once, add_noise(draw(0), draw(1), scheduler.alpha_bar(500)))
    usual = scheduler.add_noise(draw(0), draw(1))
    torch.testing.assert_close(usual, add_noise(draw(0), draw(1), scheduler.alpha_bar(250)))


def test_target_epsilon_is_what_restores():
    scheduler = OneStepScheduler()
    noisy = scheduler.add_noise(draw(0), draw(1))
    target = scheduler.target_epsilon(noisy, draw(0))
    torch.testing.assert_close(scheduler.predict_x0(noisy, target), draw(0), atol=1e-5, rtol=0)


def test_v_prediction(tmp_path: Path):
    """At equal timesteps a perfect v restores the latent; an epsilon base passes through."""
    scheduler = OneStepScheduler.from_pretrained(
        write_config(tmp_path, prediction_type="v_prediction", t_add=100)
    )
    alpha_bar = scheduler.alpha_bar(100)
    v = alpha_bar**0.5 * draw(1) - (1 - alpha_bar) ** 0.5 * draw(0)
    noisy = scheduler.add_noise(draw(0), draw(1))
    epsilon = scheduler.to_epsilon(noisy, v)
    torch.testing.assert_close(epsilon, draw(1), atol=1e-5, rtol=1e-5)
    restored = scheduler.predict_x0(noisy, epsilon)
    torch.testing.assert_close(restored, draw(0), atol=1e-5, rtol=1e-5)
    assert OneStepScheduler().to_epsilon(noisy, v) is v


def test_defaults_are_the_schedule_of_stable_diffusion():
    scheduler = OneStepScheduler()
    assert len(scheduler.alphas_cumprod) == 1000
    assert scheduler.alpha_bar(250) == pytest.approx(0.67379230260849, rel=1e-6)
    assert scheduler.alpha_bar(100) == pytest.approx(0.894223153591156, rel=1e-6)


def test_a_network_that_predicts_the_sample():
    """What it says is what the scheduler restores."""
    scheduler = OneStepScheduler(prediction_type="sample")
    noisy = scheduler.add_noise(draw(0), draw(1))
    restored = scheduler.predict_x0(noisy, scheduler.to_epsilon(noisy, draw(2)))
    torch.testing.assert_close(restored, draw(2), atol=1e-5, rtol=1e-5)


def test_the_first_and_last_timestep_are_allowed():
    scheduler = OneStepScheduler(t_add=999, t_diff=0)
    assert (scheduler.config.t_add, scheduler.config.t_diff) == (999, 0)
