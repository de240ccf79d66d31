"""Load a base model: its parts, some of them replaced by those of other folders, and the generator
over them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gdpo_sr.generators.base_folder import EMBEDDED, Base, base_folder, configs_of, part_folder
from gdpo_sr.generators.families import network_family
from gdpo_sr.generators.load_part import (
    load_network,
    load_scheduler,
    load_text_encoder,
    load_vae,
    told_as_checkpoint_error,
)
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.generators.part_config import REMEDY
from gdpo_sr.generators.prompts import NoPrompts, PromptEncoder
from gdpo_sr.types import CheckpointError
from gdpo_sr.utils.json_file import read_object


def load_components(
    base: Base,
    revision: str | None = None,
    t_add: int | None = None,
    t_diff: int | None = None,
    dtype: torch.dtype = torch.float32,
    unet: str | Path | None = None,
    vae: str | Path | None = None,
) -> dict[str, Any]:
    """Parts of a base as keyword arguments of `OneStepSRPipeline`.

    Args:
        base: ``"mini"``, a folder in diffusers layout or a hub id, or a list of mirrors that are
            tried in turn.
        revision: commit or tag of a hub id.
        t_add, t_diff: replace the timesteps that are saved with the base.
        dtype: of the networks.
        unet, vae: folders of a UNet and an autoencoder that replace the base's, as released for
            merged models: with config.json, or with a folder `unet` or `vae` that holds it.

    Returns:
        unet, vae, text_encoder, tokenizer, scheduler, prompt.

    Raises:
        CheckpointError: a part is missing or its weights do not fit its config.
        OptionError: a timestep is outside the schedule.
    """
    parts = _load_networks(base, revision, dtype, unet, vae)
    parts["scheduler"].set_timesteps_pair(t_add, t_diff)
    folder = base_folder(base, revision)
    parts |= _load_text(folder, dtype, parts["unet"], unet)
    _try_out(_generator_over(parts), folder, unet, vae)
    return parts


def load_generator(
    base: Base,
    revision: str | None = None,
    t_add: int | None = None,
    dtype: torch.dtype = torch.float32,
    unet: str | Path | None = None,
    vae: str | Path | None = None,
) -> NoiseAwareGenerator:
    """The generator over a base, for restoring: without what reads prompts if its network reads
    none. Arguments and errors as of `load_components`.
    """
    parts = _load_networks(base, revision, dtype, unet, vae)
    parts["scheduler"].set_timesteps_pair(t_add)
    folder = base_folder(base, revision)
    if network_family(parts["unet"]).text_width(parts["unet"]) is not None:
        parts |= _load_text(folder, dtype, parts["unet"], unet)
    generator = build_generator(parts)
    _try_out(generator, folder, unet, vae)
    return generator


def _load_networks(
    base: Base,
    revision: str | None,
    dtype: torch.dtype,
    unet: str | Path | None,
    vae: str | Path | None,
) -> dict[str, Any]:
    """unet, vae, scheduler and prompt."""
    place = base_folder(base, revision)
    folder = configs_of(place)
    unet_place = _place_of(place, "unet") if unet is None else part_folder(unet, "unet")
    vae_place = _place_of(place, "vae") if vae is None else part_folder(vae, "vae")
    with told_as_checkpoint_error(folder):
        scheduler = load_scheduler(folder / "scheduler")
        prompt = _saved_prompt(folder)
    with told_as_checkpoint_error(unet_place):
        network = load_network(unet_place, dtype)
    with told_as_checkpoint_error(vae_place):
        autoencoder = load_vae(vae_place, dtype)
    _check_latents(network, autoencoder, unet_place, vae_place)
    return {"unet": network, "vae": autoencoder, "scheduler": scheduler, "prompt": prompt}


def _place_of(base: Path, part: str) -> Path:
    """Where a part of a base lies: its folder, or the one file of all parts."""
    return base if base.is_file() else base / part


def _load_text(
    folder: Path, dtype: torch.dtype, network: torch.nn.Module, unet: str | Path | None
) -> dict[str, Any]:
    """text_encoder and tokenizer of the base in `folder`, which fit a network, loaded from there or
    from `unet`.
    """
    from transformers import CLIPTokenizer

    with told_as_checkpoint_error(folder):
        tokenizer = CLIPTokenizer.from_pretrained(configs_of(folder) / "tokenizer")
    text_encoder = load_text_encoder(folder, dtype)
    _check_text(network, text_encoder, _place_of(folder, "unet") if unet is None else unet, folder)
    return {"text_encoder": text_encoder, "tokenizer": tokenizer}


@torch.no_grad()
def _try_out(
    generator: NoiseAwareGenerator, folder: Path, unet: str | Path | None, vae: str | Path | None
) -> None:
    """Restore a small picture, all zeros: configs from anywhere may hold values that show only
    here. Embedded bases are tested with the package.

    Raises:
        CheckpointError: it is not restored, or to another size.
    """
    if folder in EMBEDDED.values() and unet is None and vae is None:
        return
    with told_as_checkpoint_error(folder):
        side = 2 * generator.size_multiple  # the smallest leaves some norms a single value
        black = torch.zeros(1, 3, side, side, dtype=generator.vae.dtype)
        noise = torch.zeros(generator.latent_shape(black), dtype=generator.unet.dtype)
        result = generator(black, noise)
        if result.shape != black.shape:
            raise ValueError(f"{side} x {side} pixels become {tuple(result.shape[2:])}")


def _check_latents(unet: Any, vae: Any, unet_folder: Path, vae_folder: Path) -> None:
    """Raise CheckpointError if UNet and autoencoder have different latents."""
    channels = unet.config.in_channels, vae.config.latent_channels
    if channels[0] != channels[1]:
        raise CheckpointError(
            f"'{unet_folder}' takes latents of {channels[0]} channels, '{vae_folder}' makes "
            f"{channels[1]}: give parts of one model"
        )


def _check_text(unet: Any, text_encoder: Any, unet_folder: str | Path, folder: Path) -> None:
    """Raise CheckpointError if the UNet takes embeddings that the text encoder does not make."""
    wanted, width = network_family(unet).text_width(unet), text_encoder.config.hidden_size
    if wanted not in (None, width):
        raise CheckpointError(
            f"'{unet_folder}' takes text embeddings of width {wanted}, the base '{folder}' makes "
            f"{width}: give the base that it was trained on, such as Stable Diffusion 2.1-base"
        )


def _saved_prompt(folder: Path) -> str:
    index = folder / "model_index.json"
    return str(read_object(index, REMEDY).get("prompt", "")) if index.is_file() else ""


def build_generator(components: dict[str, Any]) -> NoiseAwareGenerator:
    """The generator over loaded parts, in evaluation mode, nothing trainable; without a text
    encoder it reads no prompts.
    """
    return _generator_over(components).requires_grad_(False).eval()


def _generator_over(components: dict[str, Any]) -> NoiseAwareGenerator:
    encoder = NoPrompts()
    if components.get("text_encoder") is not None:
        encoder = PromptEncoder(components["text_encoder"], components["tokenizer"])
    return NoiseAwareGenerator(
        components["unet"],
        components["vae"],
        encoder,
        components["scheduler"],
        components.get("prompt") or "",
    )
