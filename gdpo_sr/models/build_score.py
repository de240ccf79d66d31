"""The score networks of stage 1 from options."""

from __future__ import annotations

import torch

from gdpo_sr.config.schema import NAOSDOptions
from gdpo_sr.config.stage1_options import VSDOptions
from gdpo_sr.generator_adapters import GeneratorAdapters
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.models.score_networks import ScoreNetworks
from gdpo_sr.types import OptionError


def build_score_networks(
    options: NAOSDOptions,
    vsd: VSDOptions,
    generator: NoiseAwareGenerator,
    adapters: GeneratorAdapters | None,
    device: torch.device,
) -> ScoreNetworks:
    """Score networks for VSD, without the fake LoRA yet.

    If the score's base is the generator's and the generator is trained by adapters, they share one
    UNet.

    Raises:
        OptionError: the two bases have different latents.
    """
    o, net = options.network_score, options.network_g
    base, revision = (net.base, net.revision) if o.base is None else (o.base, o.revision)
    shared = adapters is not None and (base, revision) == (net.base, net.revision)
    source = generator if shared else _load(base, revision, generator, device)
    return ScoreNetworks(
        source.unet,
        source.scheduler,
        source.prompt_encoder,
        o.prompt,
        o.negative_prompt,
        vsd.cfg_scale,
        (vsd.min_step, vsd.max_step),
        adapters if shared else None,
    )


def _load(
    base: str, revision: str | None, generator: NoiseAwareGenerator, device: torch.device
) -> NoiseAwareGenerator:
    source = build_generator(load_components(base, revision))
    own, other = (_latent_space(g) for g in (generator, source))
    if own != other:
        raise OptionError(
            f"network_score.base = '{base}': its latents (channels, side, scale) = {other} are not "
            f"those of network_g, {own}: give a diffusion model with the same autoencoder"
        )
    return source.to(device)


def _latent_space(generator: NoiseAwareGenerator) -> tuple[int, int, float]:
    vae = generator.vae.config
    return vae.latent_channels, generator.pixels_per_latent, round(vae.scaling_factor, 6)
