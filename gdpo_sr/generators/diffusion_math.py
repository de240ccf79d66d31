"""Forward noising and its inverse, for one step at unequal timesteps (GDPO-SR section 3.1).

`alpha_bar` is the cumulative product of the DDPM schedule at a timestep: a float or a tensor that
broadcasts to the latents.
"""

from __future__ import annotations

import torch

AlphaBar = float | torch.Tensor


def cumulative_alphas(
    beta_start: float, beta_end: float, steps: int, schedule: str = "scaled_linear"
) -> torch.Tensor:
    """Cumulative products of 1 - beta, (steps,) float32; Stable Diffusion is `scaled_linear`."""
    if schedule == "scaled_linear":
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float32) ** 2
    elif schedule == "linear":
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float32)
    else:
        raise ValueError(f"beta schedule {schedule!r} is unknown: use 'scaled_linear' or 'linear'")
    return torch.cumprod(1.0 - betas, dim=0)


def add_noise(latents: torch.Tensor, noise: torch.Tensor, alpha_bar: AlphaBar) -> torch.Tensor:
    """z_t = sqrt(abar) z + sqrt(1 - abar) eps; latents and noise (..., c, h, w)."""
    return alpha_bar**0.5 * latents + (1 - alpha_bar) ** 0.5 * noise


def predict_x0(noisy: torch.Tensor, epsilon: torch.Tensor, alpha_bar: AlphaBar) -> torch.Tensor:
    """z_0 = (z_t - sqrt(1 - abar) e) / sqrt(abar): inverse of `add_noise` at the same timestep."""
    return (noisy - (1 - alpha_bar) ** 0.5 * epsilon) / alpha_bar**0.5


def epsilon_for_x0(noisy: torch.Tensor, x0: torch.Tensor, alpha_bar: AlphaBar) -> torch.Tensor:
    """The prediction e* that `predict_x0` turns into `x0`: (z_t - sqrt(abar) x0) / sqrt(1 - abar).

    With t_add = 250 and t_diff = 100 of Stable Diffusion this is 1.7561 n - 0.3837 z_0, not the
    injected noise n.
    """
    return (noisy - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5


def epsilon_from_v(noisy: torch.Tensor, v: torch.Tensor, alpha_bar: AlphaBar) -> torch.Tensor:
    """Noise prediction of a network that predicts v = sqrt(abar) eps - sqrt(1 - abar) z_0."""
    return alpha_bar**0.5 * v + (1 - alpha_bar) ** 0.5 * noisy


def velocity(latents: torch.Tensor, noise: torch.Tensor, alpha_bar: AlphaBar) -> torch.Tensor:
    """What a network of type v_prediction predicts: v = sqrt(abar) eps - sqrt(1 - abar) z_0."""
    return alpha_bar**0.5 * noise - (1 - alpha_bar) ** 0.5 * latents
