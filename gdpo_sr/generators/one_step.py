"""OneStepScheduler: noise at `t_add`, one UNet call at `t_diff`; both are saved with the model."""

from __future__ import annotations

import torch

from gdpo_sr.generators.diffusion_math import (
    add_noise,
    cumulative_alphas,
    epsilon_for_x0,
    epsilon_from_v,
    predict_x0,
)
from gdpo_sr.generators.saved import Saved, keeps_config
from gdpo_sr.types import OptionError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "residual")
NO_NOISE = -1
"""As `t_add`: before the first step, where cumulative alpha is 1."""


class OneStepScheduler(Saved):
    """The unequal-timestep strategy of GDPO-SR (arXiv 2603.16769, section 3.1).

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule: the DDPM schedule of the base.
        prediction_type: ``epsilon``, ``v_prediction``, ``sample``: the restored latent itself, or
            ``residual``: what is taken from the noisy latent to get it (PiSA-SR).
        t_add: integer timestep whose noise level is added to the LR picture's latent; -1: none.
        t_diff: integer timestep that the UNet is told and that the inverse uses.

    Raises:
        OptionError: a timestep outside 0 .. num_train_timesteps - 1.
    """

    config_name = "scheduler_config.json"

    @keeps_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        prediction_type: str = "epsilon",
        t_add: int = 250,
        t_diff: int = 100,
    ) -> None:
        if prediction_type not in PREDICTION_TYPES:
            raise OptionError(
                f"prediction_type {prediction_type!r:.60}: use one of {', '.join(PREDICTION_TYPES)}"
            )
        self.alphas_cumprod = cumulative_alphas(
            beta_start, beta_end, num_train_timesteps, beta_schedule
        )
        self.check_timestep("t_add", t_add)
        self.check_timestep("t_diff", t_diff)

    def check_timestep(self, name: str, timestep: int) -> None:
        """Raise OptionError unless `timestep`, called `name`, is an integer of the schedule, or -1
        for `t_add`.
        """
        steps = len(self.alphas_cumprod)
        least, none = (NO_NOISE, ", or -1 for no noise") if name == "t_add" else (0, "")
        is_integer = isinstance(timestep, int) and not isinstance(timestep, bool)
        if not is_integer or not least <= timestep < steps:
            raise OptionError(
                f"{name} = {timestep!r:.60}: choose an integer in 0 .. {steps - 1}{none}"
            )

    def set_timesteps_pair(self, t_add: int | None = None, t_diff: int | None = None) -> None:
        """Replace one or both timesteps; they are saved with the model from then on."""
        given = {"t_add": t_add, "t_diff": t_diff}
        changes = {name: value for name, value in given.items() if value is not None}
        for name, value in changes.items():
            self.check_timestep(name, value)
        self.register_to_config(**changes)

    def alpha_bar(self, timestep: int) -> float:
        """Cumulative alpha at an integer timestep; 1 at `NO_NOISE`."""
        return 1.0 if timestep == NO_NOISE else float(self.alphas_cumprod[timestep])

    def add_noise(
        self, latents: torch.Tensor, noise: torch.Tensor, t_add: int | None = None
    ) -> torch.Tensor:
        """Latents (N, c, h, w) with noise of level `t_add` (default: the saved one)."""
        if t_add is not None:
            self.check_timestep("t_add", t_add)
        t = self.config.t_add if t_add is None else t_add
        return add_noise(latents, noise, self.alpha_bar(t))

    def to_epsilon(self, noisy: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """The UNet's output as a noise prediction, whatever `prediction_type` is."""
        alpha_bar = self.alpha_bar(self.config.t_diff)
        if self.config.prediction_type == "sample":
            return epsilon_for_x0(noisy, prediction, alpha_bar)
        if self.config.prediction_type == "residual":
            return epsilon_for_x0(noisy, noisy - prediction, alpha_bar)
        if self.config.prediction_type == "v_prediction":
            return epsilon_from_v(noisy, prediction, alpha_bar)
        return prediction

    def predict_x0(self, noisy: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
        """The restored latent: the inverse at `t_diff`. Draws nothing, clips nothing."""
        return predict_x0(noisy, epsilon, self.alpha_bar(self.config.t_diff))

    def target_epsilon(self, noisy: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
        """The prediction that `predict_x0` turns into `x0` exactly."""
        return epsilon_for_x0(noisy, x0, self.alpha_bar(self.config.t_diff))
