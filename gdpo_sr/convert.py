"""`gdpo-sr convert CHECKPOINT -o FOLDER`: what the authors of GDPO-SR, OSEDiff, HYPIR or PiSA-SR
released, or what their training code saved, in this package's layout.

CHECKPOINT is a file of theirs, which becomes a LoRA folder or, with `--merged`, a complete model;
or a folder with a merged `unet/` and `vae/`, which becomes a complete model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gdpo_sr.types import OptionError
from gdpo_sr.writer import refuse_existing


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line of `gdpo-sr convert`."""
    parser = argparse.ArgumentParser(
        prog="gdpo-sr convert",
        description="Convert a released checkpoint to this package's layout.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        help=".pkl of GDPO-SR (stage 1 or 2), OSEDiff or PiSA-SR, .pth of HYPIR, or a folder with "
        "unet/ and vae/",
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
        "--t_add",
        type=int,
        help="timestep of the added noise, -1: none; default: as its authors run it",
    )
    parser.add_argument("--t_diff", type=int, help="timestep that the UNet is told; likewise")
    parser.add_argument("--prompt", help="prompt saved with the model; likewise")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parse_arguments(argv)
    refuse_existing(arguments.output)
    if arguments.merged and arguments.base is None:
        raise OptionError("--merged needs the model to merge into: name it with --base")
    from gdpo_sr.checkpoints.convert import Place, convert_file, convert_folder

    a = arguments
    given = {"t_add": a.t_add, "t_diff": a.t_diff, "prompt": a.prompt}
    place = Place(a.base, a.revision)
    if a.checkpoint.is_dir():
        convert_folder(a.checkpoint, a.output, place, given)
    else:
        convert_file(a.checkpoint, a.output, place, given, a.merged)
    print(a.output)
    return 0
