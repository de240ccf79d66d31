"""What the authors of GDPO-SR, OSEDiff, HYPIR or PiSA-SR released, or their training code saved, in
this package's layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters, write_stage1
from gdpo_sr.checkpoints.load_adapter import merge_adapters
from gdpo_sr.checkpoints.lora import Adapter, attach_lora, lora_config, write_adapter
from gdpo_sr.checkpoints.meaning import Meaning, sample_weights
from gdpo_sr.checkpoints.model_folder import components_of, save_model_folder
from gdpo_sr.checkpoints.origins import (
    HYPIR,
    HYPIR_TARGETS,
    STAGE1,
    STAGE2,
    Origin,
    PlainLora,
)
from gdpo_sr.checkpoints.released_layout import REMEDY, ReleasedCheckpoint, Tensors, read_layout
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.generators.stable_diffusion import AutoencoderKLFamily, UNetFamily
from gdpo_sr.types import CheckpointError, OptionError
from gdpo_sr.writer import new_folder

UNET_TARGETS, ENCODER_TARGETS = UNetFamily.lora_targets, AutoencoderKLFamily.lora_targets
"""Modules that the released code adapts, by whole name."""
CONV_IN_TOLERANCE = 5e-3
"""Relative L2 distance within which a base's `conv_in` is the one that stage 2 started from; the
rounding of bfloat16 is 2e-3, training moves it by far more."""


class Place(NamedTuple):
    """Where a base lies."""

    base: str | Path | None
    revision: str | None = None


def read_checkpoint(path: Path) -> ReleasedCheckpoint:
    """Contents of a released .pkl, read without running code from it.

    Raises:
        CheckpointError: there is no such file, or it is not of the released layout.
    """
    if not path.is_file():
        raise CheckpointError(f"'{path}' is no file: {REMEDY}, or a folder with unet/ and vae/")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader that torch chooses has exceptions of its own
        raise CheckpointError(
            f"'{path}' holds no tensors that can be read safely ({type(error).__name__}): {REMEDY}"
        ) from error
    checkpoint = read_layout(state, str(path))
    _check_targets(checkpoint.unet, UNET_TARGETS, path)
    _check_targets(checkpoint.vae, ENCODER_TARGETS, path)
    return checkpoint


def _check_targets(tensors: Tensors, targets: str, path: Path) -> None:
    for key in tensors:
        if not re.fullmatch(targets, key.partition(".lora_")[0]):
            raise CheckpointError(
                f"'{path}': '{key}' is of a module that the released code does not adapt: {REMEDY}"
            )


def unet_adapter(checkpoint: ReleasedCheckpoint) -> Adapter:
    """All adapters of the UNet in one."""
    lora = PlainLora(checkpoint.unet, checkpoint.rank_unet, checkpoint.alpha_unet)
    return plain_adapter(lora, checkpoint.origin)


def plain_adapter(lora: PlainLora, origin: Origin) -> Adapter:
    """A LoRA of somebody's UNet as PEFT has it."""
    targets = HYPIR_TARGETS if origin == HYPIR else UNET_TARGETS
    return Adapter(lora_config(lora.rank, lora.alpha, 0.0, targets), lora.tensors)


def vae_adapter(checkpoint: ReleasedCheckpoint) -> Adapter:
    """The adapter of the VAE's encoder, of a checkpoint of stage 1."""
    return Adapter(lora_config(checkpoint.rank_vae, None, 0.0, ENCODER_TARGETS), checkpoint.vae)


def attach_checkpoint(
    base: NoiseAwareGenerator, checkpoint: ReleasedCheckpoint, source: str | Path
) -> None:
    """Put the adapters of a checkpoint on the networks of the base that it was trained on.

    Raises:
        CheckpointError: it does not fit this base.
    """
    adapter = unet_adapter(checkpoint)
    if checkpoint.stage == 1:
        adapters = GeneratorAdapters(base.unet, base.vae)
        adapters.attach(adapter, vae_adapter(checkpoint), checkpoint.conv_in, source)
        return
    attach_lora(base.unet, adapter, source)
    if checkpoint.conv_in:
        _check_start(base.unet.conv_in.base_layer.weight, checkpoint, source)


def _check_start(own: torch.Tensor, checkpoint: ReleasedCheckpoint, source: str | Path) -> None:
    """Stage 2 stores the `conv_in` that it started from: that of the merged stage-1 model."""
    stored = checkpoint.conv_in["weight"]
    distance = float((own - stored).norm() / stored.norm())
    if distance > CONV_IN_TOLERANCE:
        raise CheckpointError(
            f"'{source}' is of stage 2 and started from another UNet than --base: conv_in.weight "
            f"differs by {distance:.3f} (relative, limit {CONV_IN_TOLERANCE}): give the merged "
            "model of its stage 1 as --base"
        )


def write_lora(checkpoint: ReleasedCheckpoint, folder: Path, meaning: Meaning) -> Path:
    """A LoRA folder: of stage 1 with `conv_in` and VAE, of stage 2 PEFT's two files."""
    adapter = unet_adapter(checkpoint)
    if checkpoint.parts:
        return _write_parts(checkpoint, folder, meaning)
    if checkpoint.stage == 2:
        return write_adapter(adapter, folder, meaning)
    return write_stage1(folder, adapter, vae_adapter(checkpoint), checkpoint.conv_in, meaning)


def _write_parts(checkpoint: ReleasedCheckpoint, folder: Path, meaning: Meaning) -> Path:
    """The sum, and in folders of its own each LoRA that is in it; the semantic one goes on the base
    that the pixel one is merged into.
    """
    with new_folder(folder) as temporary:
        write_adapter(unet_adapter(checkpoint), temporary, meaning)
        for name, lora in checkpoint.parts.items():
            own = meaning if name == "pixel" else replace(meaning, weights={})
            write_adapter(plain_adapter(lora, checkpoint.origin), temporary / name, own)
    return folder


def load_base(place: Place, **parts: Path) -> NoiseAwareGenerator:
    """The base in float32, some of its parts replaced."""
    return build_generator(load_components(place.base, place.revision, **parts))


def parts_in(folder: Path) -> dict[str, Path]:
    """The UNet, the VAE, or both in a folder, by name.

    Raises:
        CheckpointError: `folder` holds neither.
    """
    parts = {
        part: folder / part for part in ("unet", "vae") if (folder / part / "config.json").is_file()
    }
    if not parts:
        raise CheckpointError(
            f"'{folder}' holds neither unet/config.json nor vae/config.json: give the folder with "
            "the released unet/ and vae/"
        )
    return parts


def merged_parts(folder: Path, place: Place) -> NoiseAwareGenerator:
    """The base with its UNet, its VAE, or both replaced by those in `folder`.

    Raises:
        CheckpointError: `folder` holds neither, or of another size than the base.
    """
    return load_base(place, **parts_in(folder))


def convert_folder(folder: Path, output: Path, place: Place, given: Mapping[str, Any]) -> None:
    """Merged `unet/` and `vae/` with the other parts of a base, as a complete model.

    Args:
        given: t_add, t_diff and prompt; None: those of the released model.
    """
    parts_in(folder)
    if place.base is None:
        raise OptionError(
            f"'{folder}' holds networks only: name the base that the other parts come from with "
            "--base"
        )
    _write_model(merged_parts(folder, place), _chosen(given, STAGE1), STAGE1, output)


def convert_file(
    file: Path, output: Path, place: Place, given: Mapping[str, Any], merged: bool
) -> None:
    """A .pkl as a LoRA folder, or merged into its base as a complete model.

    Args:
        given: t_add, t_diff and prompt; None: those of the project that it is from. Stage 2 of
            GDPO-SR without them has those of the stage-1 model that it started from.
    """
    checkpoint = read_checkpoint(file)
    base = None if place.base is None else load_base(place)
    weights = {} if base is None else sample_weights(base.unet)
    if base is not None:
        attach_checkpoint(base, checkpoint, file)
    origin = checkpoint.origin
    settings = _chosen(given, origin)
    if merged and base is not None:
        _write_model(merge_adapters(base), settings, origin, output)
        return
    meaning = Meaning(
        place.base,
        place.revision,
        prediction_type=origin.prediction_type,
        project=None if origin in (STAGE1, STAGE2) else origin.name,
        weights=weights,
        **settings,
    )
    write_lora(checkpoint, output, meaning)


def _chosen(given: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    known = origin.settings()
    return {name: known[name] if value is None else value for name, value in given.items()}


def _write_model(
    generator: NoiseAwareGenerator, settings: dict[str, Any], origin: Origin, folder: Path
) -> None:
    """A complete model; what is None in `settings` stays as it is with the base."""
    generator.scheduler.set_timesteps_pair(settings["t_add"], settings["t_diff"])
    if origin.prediction_type is not None:
        generator.scheduler.register_to_config(prediction_type=origin.prediction_type)
    if settings["prompt"] is not None:
        generator.prompt = settings["prompt"]
    save_model_folder(components_of(generator), folder)
