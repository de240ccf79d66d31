"""The embedded base is a real model: small, noise-aware, and its x4 output looks like the photo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gdpo_sr import OneStepSRPipeline
from gdpo_sr.data.validation import make_validation_set
from gdpo_sr.generators.base_folder import base_folder
from gdpo_sr.metrics import create_metric

VAL = Path(__file__).resolve().parents[2] / "datasets" / "example" / "val"


@pytest.fixture(scope="module")
def pipe() -> OneStepSRPipeline:
    return OneStepSRPipeline.from_pretrained("mini")


@pytest.fixture(scope="module")
def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Degraded (8, 3, 64, 64) and original (8, 3, 256, 256) crops of the validation photos."""
    made = make_validation_set(VAL, None, 4, 256)
    return torch.stack([p["lr"] for p in made]), torch.stack([p["hr"] for p in made])


@pytest.fixture(scope="module")
def photos(pairs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return pairs[1]


def test_it_is_small_and_documented():
    folder = base_folder("mini")
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 20e6
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(word in card for word in ("license", "## Photographs", "## Limits"))
    assert "@@" not in card, "a placeholder was left"
    assert not [f.name for f in folder.rglob("*") if f.suffix in (".bin", ".pkl", ".pt")]


def test_unequal_timesteps_are_saved_with_it(pipe: OneStepSRPipeline):
    assert (pipe.scheduler.config.t_add, pipe.scheduler.config.t_diff) == (250, 100)


def test_autoencoder_keeps_pictures_and_latents(pipe: OneStepSRPipeline, photos: torch.Tensor):
    """Fidelity beyond the task's uncertainty; re-encoding gives the latents (std 1 to 15) back."""
    with torch.no_grad():
        latents = pipe.generator.encode(photos * 2 - 1)
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        again = pipe.generator.encode(decoded)
    scores = create_metric("psnr_y")((decoded / 2 + 0.5).clamp(0, 1), photos)
    assert float(scores.mean()) > 36
    torch.testing.assert_close(again, latents, rtol=0, atol=5e-2)


def test_noise_neither_swamps_nor_vanishes(pipe: OneStepSRPipeline, photos: torch.Tensor):
    """What degradation takes from a latent is of the order of the noise injected at t_add."""
    enlarged = F.interpolate(F.avg_pool2d(photos, 4), scale_factor=4, mode="bicubic").clamp(0, 1)
    with torch.no_grad():
        lost = pipe.generator.encode(enlarged * 2 - 1) - pipe.generator.encode(photos * 2 - 1)
    noise_variance = 1 - pipe.scheduler.alpha_bar(pipe.scheduler.config.t_add)
    assert 1 < float(lost.square().mean()) / noise_variance < 20


def test_outputs_look_like_the_photo_and_differ(pipe: OneStepSRPipeline, pairs):
    """Texture may cost a little PSNR against bicubic; the noise makes outputs differ."""
    lr, photos = pairs
    rng = torch.Generator().manual_seed(0)
    outputs = pipe(lr, generator=rng, num_candidates=2, output_type="pt").images
    bicubic = F.interpolate(lr, scale_factor=4, mode="bicubic").clamp(0, 1)
    psnr = create_metric("psnr_y")
    assert float((psnr(outputs[::2], photos) - psnr(bicubic, photos)).mean()) > -0.5
    spread = (outputs[::2] - outputs[1::2]).abs().mean() * 255
    assert float(spread) > 1
