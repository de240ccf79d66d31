"""Super-resolve pictures: `python inference.py -i FOLDER -o FOLDER [--lora experiments/NAME]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

PRECISIONS = ("fp32", "bf16", "fp16")
COLOR_FIXES = ("wavelet", "adain", "none")
FORMATS = ("png", "jpg", "webp", "tif", "bmp", "same")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0, or 1 if a picture could not be restored; the others are restored all the same.

    Raises:
        GDPOSRError: no input, names that collide, an output folder that cannot be made, a bad
            option, base or LoRA.
    """
    args = _parser().parse_args(argv)
    from gdpo_sr.restore.plan import Naming, plan

    suffix = "" if args.format == "same" else f".{args.format}"
    naming = Naming(suffix, args.suffix, True, args.frames == "all", args.uncertainty)
    jobs = plan(args.input, args.output, naming, args.recursive)
    from gdpo_sr.utils.lean_imports import UNUSED, without

    with without(*([] if args.select else UNUSED)):  # metrics use them
        from gdpo_sr.restore.command import run  # loads slowly; names are checked without

        return run(args, jobs)


def _size(text: str) -> tuple[int, int]:
    """(H, W) of "WxH"."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"'{text}' is not WIDTHxHEIGHT, as 1920x1080")
    return int(height), int(width)


def _pixels(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of pixels")
    return int(text)


def _ending(text: str) -> str:
    if not text.isprintable() or set(text) & set("/\\") or len(text) > 60:
        raise argparse.ArgumentTypeError(f"'{text}' cannot be a part of a file name")
    return text


def _precision(text: str) -> str:
    known = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    return known.get(text, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="inference.py", description="Super-resolve pictures.")
    add = parser.add_argument
    add("-i", "--input", required=True, nargs="+", help="pictures, folders, or quoted patterns")
    add("-o", "--output", required=True, help="folder for the results")
    add("-r", "--recursive", action="store_true", help="look into subfolders; the tree is kept")
    exists = parser.add_argument_group("results that exist, one of").add_mutually_exclusive_group()
    exists.add_argument("--overwrite", action="store_true", help=_OVERWRITE_HELP)
    exists.add_argument("--skip_existing", action="store_true", help="keep all of them")
    add("--base", nargs="+", help=_BASE_HELP)
    add("--unet", metavar="FOLDER", help="a UNet that replaces the base's (none)")
    add("--vae", metavar="FOLDER", help="an autoencoder that replaces the base's (none)")
    add("--lora", metavar="RUN", help="experiments/NAME or an adapter folder (none)")
    add("--lora_scale", type=float, default=1.0, metavar="X", help="of the LoRA, 0: the base (1)")
    add("--pixel_scale", type=float, default=1.0, metavar="X", help=_PISA_HELP)
    add("--semantic_scale", type=float, default=1.0, metavar="X", help="likewise (1)")
    add("--precision", "--dtype", type=_precision, choices=PRECISIONS, default="fp32",
        help="of the model (fp32)")  # fmt: skip
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps ... (the best that there is)")
    size = parser.add_argument_group("size, one of").add_mutually_exclusive_group()
    size.add_argument("--scale", type=float, default=4, help="output side / input side (4)")
    size.add_argument("--size", type=_size, metavar="WxH", help="enlarge to cover it, then crop")
    size.add_argument("--long_side", type=_pixels, metavar="N", help="longer side in pixels")
    look = parser.add_argument_group("look").add_argument
    look("--seed", type=int, default=0, help="noise of a picture = seed + its file name (0)")
    look("--t_add", type=int, metavar="N", help="noise level, 0 to 999, -1: none (the model's own)")
    look("--prompt", metavar="TEXT", help="text for the UNet (the LoRA's or base's own)")
    look("--captions", action="store_true", help="before it, photo.txt of each photo.jpg (no)")
    look("--color_fix", choices=COLOR_FIXES, default="wavelet", help="(wavelet)")
    several = parser.add_argument_group("several noises").add_argument
    several("--candidates", type=int, default=1, metavar="N", help="noises per picture (1)")
    several("--select", metavar="METRIC", help="keep the best by a no-reference metric")
    several("--mean", action="store_true", help="average the candidates")
    several("--uncertainty", action="store_true", help=_UNCERTAINTY_HELP)
    files = parser.add_argument_group("files").add_argument
    files("--format", choices=FORMATS, default="png", help="same: as the input (png)")
    files("--suffix", type=_ending, default="", metavar="TEXT", help="behind the name, as _x4")
    files("--frames", choices=("first", "all"), default="first", help=_FRAMES_HELP)
    files("--quality", type=int, default=95, metavar="N", help="of jpg and webp, 1 to 100 (95)")
    files("--bit_depth", type=int, choices=(8, 16), help="(as the input; 16 for png and tif)")
    files("--strip", action="store_true", help="leave out EXIF data and resolution (keep them)")
    files("--preview", metavar="FILE", help="also write a sheet of all pictures before and after")
    files("--max_pixels", type=_pixels, metavar="N", help="of an input (100 million)")
    speed = parser.add_argument_group("memory and speed").add_argument
    speed("--tile", type=int, metavar="N", help="tile side in latent pixels, 0: none (by size)")
    speed("--tile_overlap", type=int, default=16, metavar="N", help="in latent pixels (16)")
    speed("--batch", type=int, default=1, metavar="N", help="tiles or pictures at a time (1)")
    speed("--compile", action="store_true", help=_COMPILE_HELP)
    return parser


_PISA_HELP = "of a LoRA of PiSA-SR; other than 1 takes two passes (1)"
_OVERWRITE_HELP = "make them all again (those that were made by other settings)"
_FRAMES_HELP = "of animations and TIFF pages; all: NAME_0001.png ... (first)"
_BASE_HELP = (
    "base model: mini, a folder or a hub id; several are tried in turn (that of the LoRA's "
    "training, or mini)"
)
_COMPILE_HELP = "torch.compile: slow to start, faster for many pictures of one size (no)"
_UNCERTAINTY_HELP = (
    "write uncertainty/NAME.png into the output folder: where the candidates differ, from black "
    "(not) to bright (by a tenth of the range or more)"
)
