"""Forward noising and its inverse at equal and unequal timesteps (ALGORITHM, sections 1 and 3)."""

from __future__ import annotations

import pytest
import torch

from gdpo_sr.generators.diffusion_math import (
    add_noise,
    cumulative_alphas,
    epsilon_for_x0,
    epsilon_from_v,
    predict_x0,
    velocity,
)

ALPHA_BARS = cumulative_alphas(0.00085, 0.012, 1000)
ADD, DIFF = float(ALPHA_BARS[250]), float(ALPHA_BARS[100])


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "timestep, recorded",
    [
        (0, 0.9991499781608582),
        (1, 0.9982960224151611),
        (100, 0.894223153591156),
        (200, 0.7536917328834534),
        (250, 0.67379230260849),
        (999, 0.00466009508818388),
    ],
)
def test_alpha_bars_of_stable_diffusion(timestep: int, recorded: float):
    alpha_bars = cumulative_alphas(0.00085, 0.012, 1000)
    assert float(alpha_bars[timestep]) == pytest.approx(recorded, rel=1e-6)


def test_linear_schedule_by_hand():
    """Betas 0.1, 0.2, 0.3: 0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7."""
    expected = torch.tensor([0.9, 0.72, 0.504])
    torch.testing.assert_close(cumulative_alphas(0.1, 0.3, 3, "linear"), expected)


def test_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="cosine"):
        cumulative_alphas(0.1, 0.3, 3, "cosine")


@pytest.mark.parametrize("timestep", [0, 100, 250, 999])
def test_predict_x0_undoes_add_noise(timestep: int):
    z, noise, alpha_bar = draw(2, 4, 8, 8), draw(2, 4, 8, 8, seed=1), float(ALPHA_BARS[timestep])
    restored = predict_x0(add_noise(z, noise, alpha_bar), noise, alpha_bar)
    torch.testing.assert_close(restored, z, atol=1e-5 / alpha_bar**0.5, rtol=0)


def test_one_alpha_bar_per_picture():
    """A tensor (B, 1, 1, 1) acts on every picture as its own float does."""
    z, noise = draw(2, 4, 8, 8), draw(2, 4, 8, 8, seed=1)
    both = add_noise(z, noise, ALPHA_BARS[[100, 250]].view(2, 1, 1, 1))
    for row, t in enumerate((100, 250)):
        own = add_noise(z[row], noise[row], float(ALPHA_BARS[t]))
        torch.testing.assert_close(both[row], own)


def test_epsilon_for_x0_by_its_coefficients():
    """e* = (sqrt(abar_add) - sqrt(abar_diff)) / sigma_diff z + sigma_add / sigma_diff n."""
    z, noise = draw(1, 4, 8, 8).double(), draw(1, 4, 8, 8, seed=1).double()
    wanted = epsilon_for_x0(add_noise(z, noise, ADD), z, DIFF)
    torch.testing.assert_close(wanted, -0.3837 * z + 1.7561 * noise, atol=5e-4, rtol=0)
    torch.testing.assert_close(predict_x0(add_noise(z, noise, ADD), wanted, DIFF), z)


def test_perfect_noise_prediction_does_not_restore_at_unequal_timesteps():
    """It gives sqrt(abar_add / abar_diff) z + (sigma_add - sigma_diff) / sqrt(abar_diff) n."""
    z, noise = draw(1, 4, 8, 8), draw(1, 4, 8, 8, seed=1)
    restored = predict_x0(add_noise(z, noise, ADD), noise, DIFF)
    torch.testing.assert_close(restored, 0.8680 * z + 0.2601 * noise, atol=5e-4, rtol=0)


def test_error_of_x0_is_a_multiple_of_the_error_of_epsilon():
    """||x0hat - z||^2 = (1 - abar_diff) / abar_diff ||e - e*||^2 = 0.11829 ||e - e*||^2."""
    z, noise, e = (draw(1, 4, 8, 8, seed=seed).double() for seed in range(3))
    noisy = add_noise(z, noise, ADD)
    of_x0 = (predict_x0(noisy, e, DIFF) - z).square().sum()
    of_epsilon = (e - epsilon_for_x0(noisy, z, DIFF)).square().sum()
    assert float(of_x0 / of_epsilon) == pytest.approx(0.11829, abs=5e-6)


def test_v_prediction_becomes_epsilon():
    """v = sqrt(abar) n - sigma z, so sqrt(abar) v + sigma z_t = n."""
    z, noise = draw(1, 4, 8, 8), draw(1, 4, 8, 8, seed=1)
    v = velocity(z, noise, DIFF)
    torch.testing.assert_close(v, DIFF**0.5 * noise - (1 - DIFF) ** 0.5 * z)
    torch.testing.assert_close(epsilon_from_v(add_noise(z, noise, DIFF), v, DIFF), noise)
