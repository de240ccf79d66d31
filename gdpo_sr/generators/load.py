"""Load a base model: its parts, some of them replaced by those of other folders, and the generator
over them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gdpo_sr.generators import single_file
from gdpo_sr.generators.base_folder import EMBEDDED, Base, base_folder, configs_of, part_folder
from gdpo_sr.generators.families import AUTOENCODERS, NETWORKS, Family, network_family
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.generators.one_step import OneStepScheduler
from gdpo_sr.generators.part_config import REMEDY, read_part
from gdpo_sr.generators.prompts import NoPrompts, PromptEncoder
from gdpo_sr.generators.try_out import told_as_checkpoint_error, try_out
from gdpo_sr.generators.weight_files import reading
from gdpo_sr.types import CheckpointError, OptionError
from gdpo_sr.utils.json_file import read_object

_UNSUPPORTED = ("trained_betas", "rescale_betas_zero_snr")
"""Settings of a scheduler that give another noise schedule than `OneStepScheduler` has."""


def _load_part(cls: Any, folder: Path, **options: Any) -> torch.nn.Module:
    """A network with every weight from its file: the libraries would draw missing ones at random.

    Raises:
        CheckpointError: weights are missing.
    """
    network, report = cls.from_pretrained(
        folder, output_loading_info=True, **reading(folder), **options
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"'{folder}' lacks {len(missing)} weights of its {cls.__name__}, such as "
            f"'{missing[0]}': save or copy the model again"
        )
    return network


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keep the library's bar, one per text encoder, out of the commands' output."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_vae(place: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The autoencoder in a folder, or in the file of a whole model, by the class name in its
    config.
    """
    folder = place if place.is_dir() else configs_of(place) / "vae"
    return _load_family(_family_in(folder, AUTOENCODERS), place, folder, dtype)


def load_network(place: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The network in a folder, or in the file of a whole model, by the class name in its config."""
    folder = place if place.is_dir() else configs_of(place) / "unet"
    family = _family_in(folder, NETWORKS)
    family.check(read_part(folder), folder)
    return _load_family(family, place, folder, dtype)


def _load_family(family: Any, place: Path, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    if place.is_file():
        return single_file.load_network(family.network, place, folder, dtype)
    return _load_part(family.network, folder, torch_dtype=dtype)


def _family_in(folder: Path, families: dict[str, Family]) -> Family:
    """The family whose class the config in `folder` names."""
    name = read_part(folder).get("_class_name")
    if not isinstance(name, str) or name not in families:
        raise CheckpointError(f"'{folder}' holds a {name!r:.60}: use one of {', '.join(families)}")
    return families[name]


def load_scheduler(folder: Path) -> OneStepScheduler:
    """The two timesteps and the noise schedule of the scheduler in `folder`, of whatever class.

    Raises:
        CheckpointError: its schedule is of a kind that is not supported.
        OptionError: neither noise nor velocity is predicted.
    """
    file = folder / "scheduler_config.json"
    config = read_part(folder, file.name)
    for key in filter(config.get, _UNSUPPORTED):
        raise CheckpointError(
            f"'{file}': {key} = {config[key]!r:.60} is not supported: use a base with the plain "
            "schedule of Stable Diffusion"
        )
    try:
        return OneStepScheduler.from_pretrained(folder)
    except OptionError as error:
        raise OptionError(f"'{file}': {error}") from error


def load_text_encoder(place: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The text encoder of the base in a folder or file.

    Raises:
        CheckpointError: it is missing, or its weights do not fit its config.
    """
    from transformers import CLIPTextModel

    part = configs_of(place) / "text_encoder"
    read_part(part)
    if place.is_file():
        with told_as_checkpoint_error(place), no_progress_bar():
            return single_file.load_text_encoder(place, configs_of(place), dtype)
    with told_as_checkpoint_error(part), no_progress_bar():
        return _load_part(CLIPTextModel, part, dtype=dtype, attn_implementation="sdpa")


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
    _check_use(_generator_over(parts), folder, unet, vae)
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
    _check_use(generator, folder, unet, vae)
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


def _check_use(
    generator: NoiseAwareGenerator, folder: Path, unet: str | Path | None, vae: str | Path | None
) -> None:
    """`try_out`, but of embedded bases, which are tested with the package."""
    if folder not in EMBEDDED.values() or unet is not None or vae is not None:
        try_out(generator, folder)


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
