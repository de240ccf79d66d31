"""Networks, data sets and metrics from options: the place where their option groups end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.utils.data import Dataset

from gdpo_sr.config.network_options import NetworkOptions, PromptOptions
from gdpo_sr.config.run_options import MetricOptions, RunOptions
from gdpo_sr.config.schema import Options
from gdpo_sr.data.captions import CaptionCache, Captions, cache_folder, file_captions
from gdpo_sr.data.degradations import RealESRGANDegradation
from gdpo_sr.data.online_dataset import OnlineDataset
from gdpo_sr.data.paired_dataset import PairedDataset
from gdpo_sr.data.validation import make_validation_set
from gdpo_sr.generators.base_folder import base_folder
from gdpo_sr.generators.half_norm import use_half_norm
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.load_part import load_text_encoder
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.metrics import Metric, create_metric
from gdpo_sr.rewards.base import Reward

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_CAST = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
"""Layers whose weights autocast rounds; the others compute in float32 under it."""


def build_base_generator(network: NetworkOptions, texts: Sequence[str] = ()) -> NoiseAwareGenerator:
    """The generator of a base, nothing trainable.

    With a fixed prompt the text encoder is dropped; `texts` are encoded before that as well.
    """
    folder = base_folder(network.base, network.revision)
    components = load_components(
        folder, None, network.t_add, network.t_diff, unet=network.unet, vae=network.vae
    )
    if network.prompt is not None:
        components["prompt"] = network.prompt
    generator = build_generator(components)
    if network.prompts.source == "fixed":
        reload = partial(load_text_encoder, folder)
        generator.prompt_encoder.release([generator.prompt, *texts], reload)
    return generator


def build_captions(prompts: PromptOptions) -> Captions | None:
    """Who gives the captions of pictures; None where all have one prompt."""
    if prompts.source == "file":
        return file_captions
    return tagger_cache(prompts).captions if prompts.source == "tagger" else None


def tagger_cache(prompts: PromptOptions) -> CaptionCache:
    """What the tagger of these options has said of pictures so far."""
    settings = prompts.tagger.model_dump()
    return CaptionCache(cache_folder(prompts.cache, prompts.tagger.model, settings))


def build_training_set(options: Options) -> Dataset[dict[str, Any]]:
    """Training pictures by draw number."""
    o, captions = options.datasets.train, build_captions(options.network_g.prompts)
    if o.type == "PairedDataset":
        return PairedDataset(
            o.dataroot_gt,
            o.dataroot_lq,
            options.scale,
            o.gt_size,
            options.manual_seed,
            o.use_hflip,
            o.use_rot,
            captions=captions,
        )
    return OnlineDataset(
        o.dataroot_gt, o.gt_size, options.manual_seed, o.use_hflip, o.use_rot, captions=captions
    )


def build_degradation(options: Options) -> RealESRGANDegradation:
    """The online degradation of the training pictures."""
    return RealESRGANDegradation(options.datasets.train.degradation, options.scale)


def build_validation_pairs(options: Options) -> list[dict[str, Any]]:
    """The fixed validation pictures."""
    o = options.datasets.val
    pairs = make_validation_set(
        o.dataroot_gt,
        o.dataroot_lq,
        options.scale,
        o.gt_size,
        o.seed,
        o.degradation,
        build_captions(options.network_g.prompts),
    )
    return pairs[: o.max_images]


def build_validation_metrics(
    options: Options, rewards: dict[str, Reward], device: str
) -> dict[str, Metric]:
    """The rewarded metrics, then the held-out ones."""
    metrics = {name: reward.metric for name, reward in rewards.items()}
    return {**metrics, **build_metrics(options.val.metrics, device)}


def build_metrics(options: Mapping[str, MetricOptions], device: str) -> dict[str, Metric]:
    """Metrics by the name the options file gives them."""
    return {name: create_metric(m.metric, device, **m.options) for name, m in options.items()}


def set_up_networks(networks: list[nn.Module], train: RunOptions) -> None:
    """Prepare UNets and autoencoders that carry their adapters, before an optimizer is built.

    Attention is diffusers' default, torch's scaled_dot_product_attention, and needs no option.
    """
    for network in networks:
        if train.gradient_checkpointing and network._supports_gradient_checkpointing:
            network.enable_gradient_checkpointing()
        if train.channels_last:
            network.to(memory_format=torch.channels_last)
        if train.vae_slicing and isinstance(network, AutoencoderKL):
            network.enable_slicing()
        if train.compile:
            _compile(network)
        else:
            use_half_norm([network])


def set_up_recorder(generator: NoiseAwareGenerator, train: RunOptions) -> None:
    """Whether passes of the networks become CUDA graphs. Activations that are computed again in the
    backward pass ask for random states, which a recording cannot.
    """
    if train.compile or not train.cuda_graphs:
        generator.recorder = None
    elif generator.recorder is not None:
        generator.recorder.gradients = not train.gradient_checkpointing


def _compile(network: nn.Module) -> None:
    """In place, so that names of weights and the switching of adapters stay as they are."""
    if isinstance(network, AutoencoderKL):
        network.encoder.compile()
        network.decoder.compile()
    else:
        network.compile()


def cast_frozen(networks: Iterable[nn.Module], precision: str) -> None:
    """Round the layers that nothing trains once and for all: autocast would cast them anew in every
    pass, for it remembers the casts of what is trained alone. Under it the same function.

    Args:
        networks: with their adapters, and with `requires_grad` as it stays.
        precision: of the run, "no" leaves all as it is.
    """
    dtype = DTYPES.get(precision)
    if dtype is None:
        return
    for network in networks:
        for module in network.modules():
            own = list(module.parameters(recurse=False))
            if isinstance(module, _CAST) and not any(p.requires_grad for p in own):
                module.to(dtype)
