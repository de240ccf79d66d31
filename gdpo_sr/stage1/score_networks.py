"""The two diffusion models of VSD: the frozen base ("real") and the base with a LoRA ("fake") that
follows the pictures the generator makes.

Both are one UNet, with the LoRA named "fake" off and on. It can be the generator's own UNet, whose
adapters and trained `conv_in` are then switched off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.checkpoints.lora import adapter_active, adapters_disabled, add_lora, lora_parameters
from gdpo_sr.generators.diffusion_math import add_noise, epsilon_from_v, predict_x0, velocity
from gdpo_sr.generators.one_step import OneStepScheduler
from gdpo_sr.generators.prompts import PromptEncoder
from gdpo_sr.group.sample import draw_noise
from gdpo_sr.losses import vsd_loss
from gdpo_sr.losses.vsd_loss import classifier_free_guidance
from gdpo_sr.shared_random import draw_rows
from gdpo_sr.types import LossOutput

FAKE = "fake"


class ScoreNetworks:
    """Scores of the base and of the generator's output.

    Args:
        unet: of the base, without an adapter or with those of `generator_adapters`.
        scheduler: noise schedule and prediction type of that base.
        prompt_encoder: of that base.
        prompt: positive text; None takes each picture's own.
        negative_prompt: text that guidance leads away from.
        cfg_scale: guidance of the real score.
        step_range: share of the timesteps from (included) and to (excluded) which VSD draws.
        generator_adapters: given if `unet` is the generator's.
    """

    def __init__(
        self,
        unet: nn.Module,
        scheduler: OneStepScheduler,
        prompt_encoder: PromptEncoder,
        prompt: str | None = None,
        negative_prompt: str = "",
        cfg_scale: float = 7.5,
        step_range: tuple[float, float] = (0.02, 0.5),
        generator_adapters: GeneratorAdapters | None = None,
    ) -> None:
        self.unet, self.scheduler, self.prompt_encoder = unet, scheduler, prompt_encoder
        self.prompt, self.negative_prompt = prompt, negative_prompt
        self.cfg_scale, self.step_range = cfg_scale, step_range
        self.generator_adapters = generator_adapters

    def add_fake_lora(
        self, rank: int = 4, alpha: int | None = None, dropout: float = 0.0
    ) -> dict[str, nn.Parameter]:
        """Add the trainable LoRA; the fake score starts as the real one. Parameters by name."""
        own = lora_parameters(self.unet)
        flags = [p.requires_grad for p in own]
        add_lora(self.unet, rank, alpha, dropout, FAKE)
        if self.generator_adapters is not None:
            self.unet.set_adapter(self.generator_adapters.name)
        for parameter, flag in zip(own, flags, strict=True):
            parameter.requires_grad_(flag)
        for parameter in lora_parameters(self.unet, FAKE):
            parameter.requires_grad_(True)
        return {
            f"score.{name}": p for name, p in self.unet.named_parameters() if f".{FAKE}." in name
        }

    @contextmanager
    def fake(self) -> Iterator[None]:
        """Inside, `unet` is the fake score."""
        if self.generator_adapters is None:
            yield
            return
        with self.generator_adapters.original_input(), adapter_active(self.unet, FAKE):
            yield

    @contextmanager
    def real(self) -> Iterator[None]:
        """Inside, `unet` is the frozen base."""
        if self.generator_adapters is None:
            with adapters_disabled(self.unet):
                yield
            return
        with self.generator_adapters.original_input(), adapters_disabled(self.unet):
            yield

    # Distillation ----------------------------------------------------------------------------

    def distill(
        self, latents: torch.Tensor, prompts: list[str], rng: torch.Generator
    ) -> LossOutput:
        """VSD of latents (N, c, h, w) with a graph; draws a timestep and a noise for each."""
        steps = len(self.scheduler.alphas_cumprod)
        low, high = (int(share * steps) for share in self.step_range)
        t = draw_rows(partial(torch.randint, low, max(high, low + 1)), (len(latents),), rng)
        noise = draw_noise(latents.shape, rng, latents.device)
        return self.distill_for_noise(latents, t.to(latents.device), noise, *self._texts(prompts))

    def distill_for_noise(
        self,
        latents: torch.Tensor,
        t: torch.Tensor,
        noise: torch.Tensor,
        positive: torch.Tensor,
        negative: torch.Tensor,
    ) -> LossOutput:
        """VSD at timesteps (N,) with a noise of the latents' shape.

        `positive` and `negative` are embeddings (N, tokens, d).
        """
        with torch.no_grad():
            alpha_bar = self._alpha_bar(t)
            noisy = add_noise(latents.float(), noise, alpha_bar)
            with self.fake():
                fake = self._epsilon(noisy, t, positive)
            with self.real():
                both = self._epsilon(
                    noisy.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([positive, negative])
                )
            real = classifier_free_guidance(*both.chunk(2), self.cfg_scale)
            x0_real, x0_fake = (predict_x0(noisy, e, alpha_bar) for e in (real, fake))
        return vsd_loss(latents.float(), x0_real, x0_fake)

    # Training of the fake score --------------------------------------------------------------

    def fake_loss(
        self, latents: torch.Tensor, prompts: list[str], rng: torch.Generator
    ) -> torch.Tensor:
        """Error of the fake score on latents (N, c, h, w), at any timestep; use it in `fake()`."""
        steps = len(self.scheduler.alphas_cumprod)
        noise = draw_noise(latents.shape, rng, latents.device)
        t = draw_rows(partial(torch.randint, 0, steps), (len(latents),), rng).to(latents.device)
        return self.fake_loss_for_noise(latents, t, noise, self._texts(prompts)[0])

    def fake_loss_for_noise(
        self, latents: torch.Tensor, t: torch.Tensor, noise: torch.Tensor, positive: torch.Tensor
    ) -> torch.Tensor:
        """Mean squared error of what the UNet predicts, noise or velocity; scalar."""
        latents, alpha_bar = latents.detach().float(), self._alpha_bar(t)
        noisy = add_noise(latents, noise, alpha_bar)
        predicts_v = self.scheduler.config.prediction_type == "v_prediction"
        target = velocity(latents, noise, alpha_bar) if predicts_v else noise
        prediction = self.unet(noisy, t, encoder_hidden_states=positive).sample
        return F.mse_loss(prediction.float(), target)

    # Parts -----------------------------------------------------------------------------------

    def _texts(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        positive = prompts if self.prompt is None else [self.prompt] * len(prompts)
        negative = [self.negative_prompt] * len(prompts)
        return self.prompt_encoder(positive), self.prompt_encoder(negative)

    def _alpha_bar(self, t: torch.Tensor) -> torch.Tensor:
        return self.scheduler.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)

    def _epsilon(self, noisy: torch.Tensor, t: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        """Noise prediction in float32, whatever the UNet predicts."""
        prediction = self.unet(noisy, t, encoder_hidden_states=embeds).sample.float()
        if self.scheduler.config.prediction_type == "v_prediction":
            return epsilon_from_v(noisy, prediction, self._alpha_bar(t))
        return prediction
