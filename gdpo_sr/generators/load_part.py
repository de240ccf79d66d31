"""One part of a base from its folder, or from the file of a whole model: network, autoencoder,
schedule, text encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gdpo_sr.generators import single_file
from gdpo_sr.generators.base_folder import configs_of
from gdpo_sr.generators.families import AUTOENCODERS, NETWORKS, Family
from gdpo_sr.generators.one_step import OneStepScheduler
from gdpo_sr.generators.part_config import REMEDY, read_part
from gdpo_sr.generators.weight_files import reading
from gdpo_sr.types import CheckpointError, GDPOSRError, OptionError
from gdpo_sr.utils.json_file import reason_of

_UNSUPPORTED = ("trained_betas", "rescale_betas_zero_snr")
"""Settings of a scheduler that give another noise schedule than `OneStepScheduler` has."""


@contextmanager
def told_as_checkpoint_error(folder: Path) -> Iterator[None]:
    """What the libraries say of a damaged part, in one line."""
    try:
        yield
    except GDPOSRError:
        raise
    except Exception as error:  # whatever a library's code makes of values that it does not expect
        raise CheckpointError(
            f"'{folder}' cannot be loaded ({reason_of(error)}): {REMEDY}"
        ) from error


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
