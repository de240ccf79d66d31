"""The score networks of stage 1 from options."""

from __future__ import annotations

import torch

from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.config.network_options import NetworkOptions
from gdpo_sr.config.schema import NAOSDOptions
from gdpo_sr.config.stage1_options import ScoreNetworkOptions, VSDOptions
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.stage1.score_networks import ScoreNetworks
from gdpo_sr.trainer.build_data import build_base_generator
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
    o, net = options.network_score, score_network(options)
    shared = adapters is not None and net == options.network_g
    source = generator if shared else _load(net, score_texts(o), generator, device)
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


def score_network(options: NAOSDOptions) -> NetworkOptions:
    """The network whose score is distilled: `network_g`, or another base without its parts."""
    o, net = options.network_score, options.network_g
    if o.base is None:
        return net
    other = {"base": o.base, "revision": o.revision, "unet": None, "vae": None}
    return net.model_copy(update=other)


def score_texts(score: ScoreNetworkOptions) -> list[str]:
    """Texts that the score networks need beside the pictures' own prompts."""
    return [text for text in (score.prompt, score.negative_prompt) if text is not None]


def _load(
    network: NetworkOptions,
    texts: list[str],
    generator: NoiseAwareGenerator,
    device: torch.device,
) -> NoiseAwareGenerator:
    source = build_base_generator(network.model_copy(update={"prompt": generator.prompt}), texts)
    own, other = (_latent_space(g) for g in (generator, source))
    if own != other:
        raise OptionError(
            f"network_score.base = '{network.base}': its latents (channels, side, scale) = {other} "
            f"are not those of network_g, {own}: give a diffusion model with the same autoencoder"
        )
    return source.to(device)


def _latent_space(generator: NoiseAwareGenerator) -> tuple[int, int, float]:
    vae = generator.vae.config
    return vae.latent_channels, generator.pixels_per_latent, round(vae.scaling_factor, 6)
