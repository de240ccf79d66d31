"""`gdpo-sr convert CHECKPOINT -o FOLDER`: what the authors of GDPO-SR released, or what their
training code saved, in this package's layout.

CHECKPOINT is a .pkl of stage 1 or 2, which becomes a LoRA folder or, with `--merged`, a complete
model; or a folder with a merged `unet/` and `vae/`, which becomes a complete model.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters, write_stage1
from gdpo_sr.checkpoints.lora import Adapter, attach_lora, lora_config, write_adapter
from gdpo_sr.checkpoints.merge import merge_adapters
from gdpo_sr.checkpoints.model_folder import save_model_folder
from gdpo_sr.checkpoints.released_layout import REMEDY, ReleasedCheckpoint, Tensors, read_layout
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.generators.stable_diffusion import AutoencoderKLFamily, UNetFamily
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.types import CheckpointError, OptionError
from gdpo_sr.writer import new_folder, refuse_existing

UNET_TARGETS, ENCODER_TARGETS = UNetFamily.lora_targets, AutoencoderKLFamily.lora_targets
"""Modules that the released code adapts, by whole name."""
T_ADD, T_DIFF = 250, 100
"""Timesteps of the released model, which its files do not hold."""
PROMPT = "clean, high-resolution, 8k"
"""What the released code puts behind every caption."""
CONV_IN_TOLERANCE = 5e-3
"""Relative L2 distance within which a base's `conv_in` is the one that stage 2 started from; the
rounding of bfloat16 is 2e-3, training moves it by far more."""
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    OSError,
)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line of `gdpo-sr convert`."""
    parser = argparse.ArgumentParser(
        prog="gdpo-sr convert",
        description="Convert a released checkpoint to this package's layout.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint", type=Path, help=".pkl of stage 1 or 2, or a folder with unet/ and vae/"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--base",
        help="folder or hub id: the base of stage 1, or the merged stage-1 model for stage 2; "
        "needed for a complete model, otherwise the LoRA is checked against it",
    )
    parser.add_argument("--revision", help="commit or tag of a hub id")
    parser.add_argument(
        "--merged", action="store_true", help="write a complete model instead of a LoRA folder"
    )
    parser.add_argument(
        "--t_add", type=int, help=f"timestep of the added noise; default {T_ADD}, or the base's"
    )
    parser.add_argument(
        "--t_diff", type=int, help=f"timestep that the UNet is told; default {T_DIFF}"
    )
    parser.add_argument("--prompt", help=f"prompt saved with the model; default {PROMPT!r}")
    return parser.parse_args(argv)


def read_checkpoint(path: Path) -> ReleasedCheckpoint:
    """Contents of a released .pkl, read without running code from it.

    Raises:
        CheckpointError: there is no such file, or it is not of the released layout.
    """
    if not path.is_file():
        raise CheckpointError(f"'{path}' is no file: {REMEDY}, or a folder with unet/ and vae/")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
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
    """The three adapters of the UNet in one, for they share no module."""
    return Adapter(lora_config(checkpoint.rank_unet, None, 0.0, UNET_TARGETS), checkpoint.unet)


def vae_adapter(checkpoint: ReleasedCheckpoint) -> Adapter:
    """The adapter of the VAE's encoder, of a checkpoint of stage 1."""
    return Adapter(lora_config(checkpoint.rank_vae, None, 0.0, ENCODER_TARGETS), checkpoint.vae)


def attach_checkpoint(
    base: OneStepSRPipeline | NoiseAwareGenerator,
    checkpoint: ReleasedCheckpoint,
    source: str | Path,
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


def write_lora(checkpoint: ReleasedCheckpoint, folder: Path, settings: dict) -> Path:
    """A LoRA folder: of stage 1 with `conv_in`, VAE and `settings`, of stage 2 PEFT's two files.

    Args:
        settings: t_add, t_diff and prompt, saved with stage 1.
    """
    adapter = unet_adapter(checkpoint)
    if checkpoint.stage == 2:
        return write_adapter(adapter, folder)
    return write_stage1(folder, adapter, vae_adapter(checkpoint), checkpoint.conv_in, settings)


def merged_checkpoint(
    path: Path, checkpoint: ReleasedCheckpoint, base: str | Path, revision: str | None = None
) -> OneStepSRPipeline:
    """The base with the checkpoint merged into its weights, in float32."""
    pipeline = OneStepSRPipeline.from_pretrained(base, revision)
    attach_checkpoint(pipeline, checkpoint, path)
    return merge_adapters(pipeline)


def merged_parts(folder: Path, base: str | Path, revision: str | None = None) -> OneStepSRPipeline:
    """The base with its UNet, its VAE, or both replaced by those in `folder`.

    Raises:
        CheckpointError: `folder` holds neither, or of another size than the base.
    """
    parts = {
        part: folder / part for part in ("unet", "vae") if (folder / part / "config.json").is_file()
    }
    if not parts:
        raise CheckpointError(
            f"'{folder}' holds neither unet/config.json nor vae/config.json: give the folder with "
            "the released unet/ and vae/"
        )
    return OneStepSRPipeline.from_pretrained(base, revision, **parts)


def _settings(arguments: argparse.Namespace, defaults: dict) -> dict:
    """t_add, t_diff and prompt: as given, else the defaults."""
    given = {name: getattr(arguments, name) for name in defaults}
    return {name: defaults[name] if value is None else value for name, value in given.items()}


def _released_settings(arguments: argparse.Namespace) -> dict:
    return _settings(arguments, {"t_add": T_ADD, "t_diff": T_DIFF, "prompt": PROMPT})


def _write_model(pipeline: OneStepSRPipeline, settings: dict, folder: Path) -> None:
    pipeline.scheduler.set_timesteps_pair(settings["t_add"], settings["t_diff"])
    save_model_folder({**pipeline.components, "prompt": settings["prompt"]}, folder)


def convert_folder(arguments: argparse.Namespace) -> None:
    """Merged `unet/` and `vae/` with the other parts of a base."""
    if arguments.base is None:
        raise OptionError(
            f"'{arguments.checkpoint}' holds networks only: name the base that the other parts "
            "come from with --base"
        )
    pipeline = merged_parts(arguments.checkpoint, arguments.base, arguments.revision)
    _write_model(pipeline, _released_settings(arguments), arguments.output)


def convert_file(arguments: argparse.Namespace) -> None:
    """A .pkl to a LoRA folder or a complete model."""
    path, base = arguments.checkpoint, arguments.base
    checkpoint = read_checkpoint(path)
    if arguments.merged:
        pipeline = merged_checkpoint(path, checkpoint, base, arguments.revision)
        settings = _released_settings(arguments)
        if checkpoint.stage == 2:
            t = pipeline.scheduler.config
            own = {"t_add": t.t_add, "t_diff": t.t_diff, "prompt": pipeline.config.prompt}
            settings = _settings(arguments, own)
        _write_model(pipeline, settings, arguments.output)
        return
    if checkpoint.stage == 2:
        _refuse_settings(arguments)
    if base is not None:
        pipeline = OneStepSRPipeline.from_pretrained(base, arguments.revision)
        attach_checkpoint(pipeline, checkpoint, path)
    with new_folder(arguments.output) as temporary:
        write_lora(checkpoint, temporary, _released_settings(arguments))


def _refuse_settings(arguments: argparse.Namespace) -> None:
    for name in ("t_add", "t_diff", "prompt"):
        if getattr(arguments, name) is not None:
            raise OptionError(
                f"--{name} is saved with a model, not with a LoRA of stage 2: add --merged, or set "
                f"network_g.{name} where the LoRA is used"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parse_arguments(argv)
    refuse_existing(arguments.output)
    if arguments.merged and arguments.base is None:
        raise OptionError("--merged needs the model to merge into: name it with --base")
    if arguments.checkpoint.is_dir():
        convert_folder(arguments)
    else:
        convert_file(arguments)
    print(arguments.output)
    return 0
