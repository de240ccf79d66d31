"""NoiseAwareGenerator (NAOSD): encode, add noise at t_add, one UNet call at t_diff, decode.

GDPO-SR section 3.1.

Everything random comes in as a tensor, so that the same noise can be given to two models.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import nn

from gdpo_sr.generators.families import autoencoder_family, network_family
from gdpo_sr.generators.one_step import OneStepScheduler
from gdpo_sr.generators.prompts import NoPrompts, PromptEncoder, prompts_behind
from gdpo_sr.generators.recorded import Pass, Recorder

Dial = Callable[[nn.Module, Callable[[], torch.Tensor]], torch.Tensor]
"""What becomes of the answers of a network: it is given the network and a call of it."""


class NoiseAwareGenerator(nn.Module):
    """One-step generator over the parts of a Stable Diffusion style base.

    Args:
        unet: the network that restores, of any of `families.NETWORKS`; called once per output.
        vae: of any of `families.AUTOENCODERS`.
        prompt_encoder: prompts -> embeddings.
        scheduler: the two timesteps and the noise schedule.
        prompt: prompt used where the caller names none.

    Attributes:
        dial: mixes answers of the network, or None.
        recorder: replays passes of the networks on a CUDA device; None: every pass is run.
    """

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module,
        prompt_encoder: PromptEncoder | NoPrompts,
        scheduler: OneStepScheduler,
        prompt: str = "",
    ) -> None:
        super().__init__()
        self.unet = unet
        self.vae = vae
        self.prompt_encoder = prompt_encoder
        self.scheduler = scheduler
        self.prompt = prompt
        self.dial: Dial | None = None
        self.recorder: Recorder | None = Recorder()

    @property
    def pixels_per_latent(self) -> int:
        """Side, in pixels, of the square that one latent pixel covers."""
        return autoencoder_family(self.vae).pixels_per_latent(self.vae)

    @property
    def size_multiple(self) -> int:
        """Height and width of pictures given to `encode` must be multiples of this many pixels."""
        return self.pixels_per_latent * network_family(self.unet).size_multiple(self.unet)

    def latent_shape(self, images: torch.Tensor) -> tuple[int, int, int, int]:
        """Shape (N, c, h, w) of the latents of pictures (N, 3, H, W)."""
        n, _, height, width = images.shape
        p = self.pixels_per_latent
        return n, self.vae.config.latent_channels, height // p, width // p

    def encode(
        self, images: torch.Tensor, posterior_noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scaled latents (N, c, h, w) of pictures (N, 3, H, W) in [-1, 1].

        `posterior_noise`, N(0, 1) of the latents' shape, draws from the encoder's posterior; None
        takes its mean. With G noises for each, (N, G, c, h, w), so many latents are drawn.
        """
        mean, std = self._run(self.vae, "encoder", self._posterior, images)
        if posterior_noise is not None and posterior_noise.ndim > mean.ndim:
            mean, std = mean[:, None], std[:, None]
        latents = mean if posterior_noise is None else mean + std * posterior_noise
        return latents * self.vae.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures (N, 3, H, W), clamped to [-1, 1], of scaled latents (N, c, h, w)."""
        return self.decode_unclamped(latents).clamp(-1, 1)

    def decode_unclamped(self, latents: torch.Tensor) -> torch.Tensor:
        """What the decoder gives; values outside [-1, 1] keep their gradient."""
        scaled = latents / self.vae.config.scaling_factor
        [pictures] = self._run(self.vae, "decoder", lambda x: (self.vae.decode(x).sample,), scaled)
        return pictures

    def _posterior(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        posterior = self.vae.encode(images).latent_dist
        return posterior.mean, posterior.std

    def _run(
        self, network: nn.Module, name: Hashable, function: Pass, *inputs: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """A pass of one network, or its recording."""
        if self.recorder is None:
            return function(*inputs)
        return self.recorder(network, name, function, *inputs)

    def prompts_of(self, captions: Sequence[str] | None, count: int) -> list[str]:
        """Prompts of `count` pictures: their captions with the own prompt behind, or it alone."""
        return prompts_behind([""] * count if captions is None else captions, self.prompt)

    def predict_epsilon(
        self, noisy: torch.Tensor, prompt_embeds: torch.Tensor, unet: nn.Module | None = None
    ) -> torch.Tensor:
        """The network's noise prediction at t_diff for noisy latents (N, c, h, w).

        `prompt_embeds` is (N, tokens, d). `unet` replaces the own one, for example by its
        wrapped form in distributed training.
        """
        network = self.unet if unet is None else unet
        predict, t_diff = network_family(self.unet).predict, self.scheduler.config.t_diff

        def passes(noisy: torch.Tensor, embeds: torch.Tensor) -> tuple[torch.Tensor]:
            return (predict(network, noisy, t_diff, embeds),)

        def answer() -> torch.Tensor:
            embeds = prompt_embeds.to(noisy.device)
            if unet is not None:
                return passes(noisy, embeds)[0]
            return self._run(network, ("UNet", t_diff), passes, noisy, embeds)[0]

        prediction = answer() if self.dial is None else self.dial(self.unet, answer)
        return self.scheduler.to_epsilon(noisy, prediction)

    def predict_x0(self, noisy: torch.Tensor, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """The restored latents of noisy ones, both (N, c, h, w)."""
        return self.scheduler.predict_x0(noisy, self.predict_epsilon(noisy, prompt_embeds))

    def restore_latents(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        prompt_embeds: torch.Tensor,
        t_add: int | None = None,
    ) -> torch.Tensor:
        """z_SR (N, c, h, w) of LR latents and injected noise of the same shape."""
        return self.predict_x0(self.scheduler.add_noise(latents, noise, t_add), prompt_embeds)

    def forward(
        self,
        images: torch.Tensor,
        noise: torch.Tensor,
        prompts: list[str] | None = None,
        t_add: int | None = None,
    ) -> torch.Tensor:
        """Restored pictures (N, 3, H, W) in [-1, 1].

        Args:
            images: LR pictures already resized to the output size, (N, 3, H, W) in [-1, 1].
            noise: N(0, 1) of shape `latent_shape(images)`.
            prompts: one per picture; None uses the base's own.
            t_add: timestep of the injected noise; None uses the saved one.
        """
        embeds = self.prompt_encoder(prompts or [self.prompt] * len(images))
        return self.decode(self.restore_latents(self.encode(images), noise, embeds, t_add))
