"""The base diffusion model of the embedded base: noise prediction on the autoencoder's latents.

Its UNet knows two prompts: one for clean photographs, one for degraded ones. So it has a score that
VSD can distil, and classifier-free guidance between the two prompts points from degraded to clean.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from networks import NEGATIVE_PROMPT, PROMPT
from photo_stream import PhotoStream
from start_linear import start_linear
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from gdpo_sr.generators.diffusion_math import add_noise
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator

Draw = tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]


class DiffusionTrainer:
    """Denoising score matching over all timesteps; small ones, which VSD uses, more often.

    Args:
        generator: holds the UNet that is trained, the fitted autoencoder and the text encoder.
        stream: photographs.
        state_file: written every few minutes and at the end; if it exists, training goes on.
        minutes: training time in all.
        batch: latents a step, half of them of degraded pictures.
        lr: highest learning rate; cosine over the budget.
        seed: of noise and timesteps.
    """

    def __init__(
        self,
        generator: NoiseAwareGenerator,
        stream: PhotoStream,
        state_file: Path,
        minutes: float,
        batch: int = 12,
        lr: float = 8e-4,
        seed: int = 0,
    ) -> None:
        self.generator, self.stream, self.state_file = generator, stream, state_file
        self.minutes, self.batch, self.lr = minutes, batch, lr
        self.rng = torch.Generator().manual_seed(seed)
        self.unet = generator.unet.requires_grad_(True).train()
        self.step, self.seconds, self.saved_at = 0, 0.0, 0.0
        if not state_file.is_file():
            self.start()
        self.average = AveragedModel(self.unet, multi_avg_fn=get_ema_multi_avg_fn(0.999))
        self.optimizer = torch.optim.AdamW(
            self.unet.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-4
        )
        if state_file.is_file():
            self.resume()

    @torch.no_grad()
    def start(self) -> None:
        """Make the UNet the best linear noise prediction."""
        noisy, noise, _, _ = zip(*[self.draw() for _ in range(20)], strict=True)
        start_linear(self.unet, torch.cat(noisy), torch.cat(noise))

    @torch.no_grad()
    def draw(self) -> Draw:
        """Noisy latents, their noise, timesteps and prompts."""
        hr = self.stream.next_crops(self.batch)
        half = self.batch // 2
        pictures = torch.cat([self.stream.enlarged_lr(hr[:half], self.rng), hr[half:]])
        latents = self.generator.encode(pictures)
        prompts = [NEGATIVE_PROMPT] * half + [PROMPT] * (self.batch - half)
        uniform = torch.rand(self.batch, generator=self.rng)
        timesteps = (1000 * uniform**1.5).long()
        noise = torch.randn(latents.shape, generator=self.rng).to(latents.device)
        alpha_bar = self.generator.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noisy = add_noise(latents, noise, alpha_bar.to(latents.device))
        return noisy, noise, timesteps.to(latents.device), prompts

    def train_step(self) -> float:
        """One update on a fresh batch; returns the loss."""
        noisy, noise, timesteps, prompts = self.draw()
        embeds = self.generator.prompt_encoder(prompts)
        predicted = self.unet(noisy, timesteps, encoder_hidden_states=embeds).sample
        loss = F.mse_loss(predicted, noise)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.unet)
        return float(loss)

    def learning_rate(self) -> float:
        """Cosine over the time budget after a short warm-up."""
        done = min(self.seconds / (60 * self.minutes), 1.0)
        return (
            self.lr
            * min(1.0, (self.step + 1) / 50)
            * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        )

    def run(self) -> None:
        """Train until the budget is spent, then give the generator the averaged weights."""
        with tqdm(desc="diffusion", unit="it") as bar:
            recent = 1.0
            while self.seconds < 60 * self.minutes:
                start = time.monotonic()
                recent += (self.train_step() - recent) / min(self.step + 1, 100)
                self.step += 1
                self.seconds += time.monotonic() - start
                bar.update()
                left = self.minutes - self.seconds / 60
                bar.set_postfix_str(f"loss {recent:.4f}, {left:.1f} min left", refresh=False)
                if self.seconds - self.saved_at > 180:
                    self.save()
        self.save()
        self.unet.load_state_dict(self.average.module.state_dict())
        self.unet.requires_grad_(False).eval()

    def save(self) -> None:
        """Write the state under a temporary name, then rename it."""
        self.saved_at = self.seconds
        state = {
            "unet": self.unet.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.get_state(),
            "drawn": self.stream.drawn,
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.state_file.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.state_file)

    def resume(self) -> None:
        """Go on from the last state."""
        state = torch.load(self.state_file, weights_only=True)
        self.unet.load_state_dict(state["unet"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.set_state(state["rng"])
        self.stream.drawn = state["drawn"]
        self.step, self.seconds = state["step"], state["seconds"]
        self.saved_at = self.seconds
