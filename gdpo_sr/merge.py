"""`gdpo-sr merge --lora RUN -o FOLDER`: one model in diffusers layout out of a LoRA of stage 1 or 2
and its base.

`OneStepSRPipeline.from_pretrained(FOLDER)` loads it, and stage 2 starts from it with
`network_g.base: FOLDER`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gdpo_sr.writer import refuse_existing

MERGED = "merged"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line of `gdpo-sr merge`."""
    parser = argparse.ArgumentParser(
        prog="gdpo-sr merge", description="Merge a LoRA into its base.", allow_abbrev=False
    )
    parser.add_argument(
        "--base",
        nargs="+",
        help="mini, a folder, or a hub id, several are tried in turn; default: what the LoRA was "
        "trained on, with its UNet and VAE",
    )
    parser.add_argument("--unet", help="folder of a UNet that replaced the base's")
    parser.add_argument("--vae", help="folder of an autoencoder that replaced the base's")
    parser.add_argument("--revision", help="commit or tag of a hub id")
    parser.add_argument(
        "--lora", required=True, type=Path, metavar="RUN", help="run folder or LoRA folder"
    )
    parser.add_argument("--lora_scale", type=float, default=1.0, help="0: the base (1)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"folder of the merged model; default: {MERGED} beside the LoRA",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parse_arguments(argv)
    from gdpo_sr.checkpoints.load_adapter import find_run_adapter, merged_generator
    from gdpo_sr.checkpoints.model_folder import components_of, save_model_folder

    adapter = find_run_adapter(arguments.lora)
    folder = arguments.output or adapter.with_name(MERGED)
    refuse_existing(folder)
    place = {name: getattr(arguments, name) for name in ("base", "revision", "unet", "vae")}
    generator = merged_generator(adapter, place, scale=arguments.lora_scale)
    save_model_folder(components_of(generator), folder)
    print(folder)
    return 0
