"""`gdpo-sr merge --base B --lora RUN -o FOLDER`: one model in diffusers layout out of a base and a
LoRA of stage 1 or 2.

`OneStepSRPipeline.from_pretrained(FOLDER)` loads it, and stage 2 starts from it with
`network_g.base: FOLDER`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from gdpo_sr.checkpoints.lora import find_adapter, lora_parameters, merge_lora
from gdpo_sr.checkpoints.model_folder import save_model_folder
from gdpo_sr.generators.base_folder import Base
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.types import CheckpointError
from gdpo_sr.writer import refuse_existing

MERGED = "merged"
Networks = TypeVar("Networks", OneStepSRPipeline, NoiseAwareGenerator)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line of `gdpo-sr merge`."""
    parser = argparse.ArgumentParser(
        prog="gdpo-sr merge", description="Merge a LoRA into its base.", allow_abbrev=False
    )
    parser.add_argument(
        "--base",
        default=["mini"],
        nargs="+",
        help="what the LoRA was trained on: mini, a folder, or a hub id; several are tried in turn",
    )
    parser.add_argument("--unet", help="folder of a UNet that replaced the base's")
    parser.add_argument("--vae", help="folder of an autoencoder that replaced the base's")
    parser.add_argument("--revision", help="commit or tag of a hub id")
    parser.add_argument(
        "--lora", required=True, type=Path, metavar="RUN", help="run folder or LoRA folder"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"folder of the merged model; default: {MERGED} beside the LoRA",
    )
    return parser.parse_args(argv)


def merged_pipeline(
    base: Base,
    lora: str | Path,
    revision: str | None = None,
    unet: str | Path | None = None,
    vae: str | Path | None = None,
) -> OneStepSRPipeline:
    """The base with the LoRA of stage 1 or 2 merged into its weights, in float32.

    Raises:
        CheckpointError: the LoRA is missing or does not fit the base.
    """
    pipeline = OneStepSRPipeline.from_pretrained(base, revision, unet=unet, vae=vae)
    pipeline.load_lora_weights(lora)
    return merge_adapters(pipeline)


def merge_adapters(base: Networks) -> Networks:
    """Merge what is on UNet and VAE into their weights; same function."""
    for network in (base.unet, base.vae):
        if lora_parameters(network):
            merge_lora(network)
    return base


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parse_arguments(argv)
    adapter = find_run_adapter(arguments.lora)
    folder = arguments.output or adapter.with_name(MERGED)
    refuse_existing(folder)
    a = arguments
    pipeline = merged_pipeline(a.base, adapter, a.revision, a.unet, a.vae)
    save_model_folder({**pipeline.components, "prompt": pipeline.config.prompt}, folder)
    print(folder)
    return 0


def find_run_adapter(run: Path) -> Path:
    """The LoRA of a run; a run that trained every weight has none to merge."""
    whole = run / "models" / "latest"
    if (whole / "model_index.json").is_file():
        raise CheckpointError(
            f"'{run}' trained every weight: '{whole}' is a complete model already, use it as it is"
        )
    return find_adapter(run)
