"""Blur and sinc kernels: normalised, centred, in range, and random by their generator only."""

from __future__ import annotations

import math

import pytest
import torch

from gdpo_sr.config.degradation import DegradationOptions, KernelMix, StageOptions
from gdpo_sr.data.draws import choose, generator_for, integer
from gdpo_sr.data.kernels import (
    draw_blur_kernel,
    draw_final_kernel,
    draw_size,
    identity_kernel,
    sinc_kernel,
)

OPTIONS = DegradationOptions()
FAMILIES = list(KernelMix.model_fields)


def only(family: str) -> KernelMix:
    return KernelMix(**{name: float(name == family) for name in FAMILIES})


def draw(family: str, seed: int, **stage: object) -> torch.Tensor:
    options = StageOptions.model_validate({"sinc_prob": 0.0, **stage})
    return draw_blur_kernel(options, only(family), (7, 21), generator_for(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_are_normalised_and_deterministic(family):
    for seed in range(20):
        kernel = draw(family, seed)
        assert kernel.shape == (21, 21) and kernel.dtype == torch.float32
        assert kernel.sum().item() == pytest.approx(1.0, abs=1e-5)
        assert kernel.min() >= 0
        torch.testing.assert_close(kernel, kernel.flip(0, 1), rtol=0, atol=1e-6)  # no shift
        assert torch.equal(kernel, draw(family, seed))
    assert not torch.equal(draw(family, 0), draw(family, 1))


@pytest.mark.parametrize("family", ["iso", "generalized_iso", "plateau_iso"])
def test_isotropic_kernels_are_symmetric(family):
    kernel = draw(family, 3)
    torch.testing.assert_close(kernel, kernel.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(kernel, kernel.flip(0), rtol=0, atol=1e-6)


def test_gaussian_has_the_asked_width():
    """Variance of a sampled Gaussian of sigma 2 on 21 pixels (cut at 5 sigma) is 4 per axis."""
    kernel = draw_blur_kernel(
        StageOptions(sinc_prob=0.0, blur_sigma=(2.0, 2.0)), only("iso"), (21, 21), generator_for(0)
    )
    offsets = torch.arange(21) - 10
    assert (kernel.sum(0) * offsets**2).sum().item() == pytest.approx(4.0, abs=1e-2)


def test_sinc_kernel_passes_low_and_stops_high_frequencies():
    kernel = sinc_kernel(math.pi / 2, 21)
    response = torch.fft.fft2(kernel).abs()
    assert kernel.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert response[1, 1].item() == pytest.approx(1.0, abs=0.15)
    assert response[10, 10].item() < 0.05
    assert kernel.min() < 0


def test_sinc_prob_one_draws_sinc_kernels():
    stage = StageOptions(sinc_prob=1.0)
    kernel = draw_blur_kernel(stage, OPTIONS.kernel_mix, (21, 21), generator_for(1))
    assert kernel.min() < 0


def test_final_kernel_is_identity_or_sinc():
    assert torch.equal(draw_final_kernel(0.0, (7, 21), generator_for(0)), identity_kernel())
    assert not torch.equal(draw_final_kernel(1.0, (7, 21), generator_for(0)), identity_kernel())


def test_sizes_are_all_odd_sizes_of_the_range():
    generator = generator_for("sizes")
    sizes = {draw_size((7, 21), generator) for _ in range(300)}
    assert sizes == {7, 9, 11, 13, 15, 17, 19, 21}


def test_choose_follows_the_weights():
    generator = generator_for("weights")
    counts = torch.bincount(
        torch.tensor([choose((0.2, 0.0, 0.7, 0.1), generator) for _ in range(4000)])
    )
    assert counts[1] == 0
    torch.testing.assert_close(counts / 4000, torch.tensor([0.2, 0.0, 0.7, 0.1]), rtol=0, atol=0.03)


def test_integer_includes_both_ends():
    generator = generator_for(0)
    assert {integer(3, 5, generator) for _ in range(50)} == {3, 4, 5}


def test_generator_for_depends_on_every_key():
    states = [generator_for(*keys).initial_seed() for keys in [(0, 1), (1, 0), (0, 1, 0), ("0", 1)]]
    assert len(set(states)) == 4
    assert generator_for(0, 1).initial_seed() == states[0]
