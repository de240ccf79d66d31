"""`gdpo-sr export RUN -o FOLDER`: a trained model for others: a LoRA that diffusers and PEFT load
by themselves, or a complete model, each with a model card, and on wish on the Hugging Face hub.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gdpo_sr.writer import refuse_existing


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line of `gdpo-sr export`."""
    parser = argparse.ArgumentParser(
        prog="gdpo-sr export", description="Write a trained model for others.", allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="run folder (experiments/NAME) or LoRA folder")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--format",
        choices=("lora", "merged"),
        default="lora",
        help="lora (default): for diffusers, PEFT and gdpo_sr; merged: a complete model",
    )
    parser.add_argument(
        "--base", help="what the LoRA was trained on; default: as is written beside it"
    )
    parser.add_argument("--revision", help="commit or tag of --base")
    parser.add_argument(
        "--license", metavar="ID", help="licence in the model card, such as apache-2.0"
    )
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="upload the folder there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parse_arguments(argv)
    from gdpo_sr.publish.export import export, find_source, meaning_of
    from gdpo_sr.publish.hub import check_hub_access, push_folder

    folder, hub_id = arguments.output, arguments.push_to_hub
    refuse_existing(folder)
    if hub_id is not None:
        check_hub_access(hub_id)
    source = find_source(arguments.run)
    meaning = meaning_of(source)
    if arguments.base is not None:
        place = {"base": arguments.base, "revision": arguments.revision}
        meaning = replace(meaning, **place, unet=None, vae=None)
    title = None if hub_id is None else hub_id.split("/")[-1]
    export(source, folder, arguments.format == "merged", meaning, title, arguments.license)
    print(folder)
    if hub_id is not None:
        print(push_folder(folder, hub_id))
    return 0
