"""`gdpo-sr merge --base B --lora RUN -o FOLDER`: one model in diffusers layout out of a base and a
LoRA of stage 1 or 2.

`OneStepSRPipeline.from_pretrained(FOLDER)` loads it, and stage 2 starts from it with
`network_g.base: FOLDER`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gdpo_sr.lora import find_adapter, lora_parameters, merge_lora
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.pipelines.save import save_model_folder
from gdpo_sr.types import CheckpointError

MERGED = "merged"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line of `gdpo-sr merge`."""
    parser = argparse.ArgumentParser(
        prog="gdpo-sr merge", description="Merge a LoRA into its base.", allow_abbrev=False
    )
    parser.add_argument(
        "--base", default="mini", help="what the LoRA was trained on: mini, a folder, or a hub id"
    )
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
    base: str | Path, lora: str | Path, revision: str | None = None
) -> OneStepSRPipeline:
    """The base with the LoRA of stage 1 or 2 merged into its weights, in float32.

    Raises:
        CheckpointError: the LoRA is missing or does not fit the base.
    """
    pipeline = OneStepSRPipeline.from_pretrained(base, revision)
    pipeline.load_lora_weights(lora)
    for network in (pipeline.unet, pipeline.vae):
        if lora_parameters(network):
            merge_lora(network)
    return pipeline


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parse_arguments(argv)
    adapter = _find(arguments.lora)
    folder = arguments.output or adapter.with_name(MERGED)
    if folder.exists():
        raise CheckpointError(f"'{folder}' exists: give another folder with -o, or remove it")
    pipeline = merged_pipeline(arguments.base, adapter, arguments.revision)
    try:
        save_model_folder({**pipeline.components, "prompt": pipeline.config.prompt}, folder)
    except OSError as error:
        raise CheckpointError(
            f"'{folder}' cannot be written ({error.strerror or error}): give another folder with -o"
        ) from error
    print(folder)
    return 0


def _find(run: Path) -> Path:
    """The LoRA of a run; a run that trained every weight has none to merge."""
    whole = run / "models" / "latest"
    if (whole / "model_index.json").is_file():
        raise CheckpointError(
            f"'{run}' trained every weight: '{whole}' is a complete model already, use it as it is"
        )
    return find_adapter(run)
