"""Super-resolve pictures: `python inference.py -i FOLDER -o FOLDER [--lora experiments/NAME]`."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import diffusers
import torch
import transformers
from accelerate import PartialState
from tqdm import tqdm

from gdpo_sr.lora import find_adapter
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline, check_arguments
from gdpo_sr.types import DatasetError, ImageError, OptionError
from gdpo_sr.utils.color_fix import COLOR_FIXES
from gdpo_sr.utils.image_io import list_images, read_image, write_image

Restore = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""A picture (3, h, w) in [0, 1] and a source of noise -> the restored one (3, H, W)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0, or 1 if a picture could not be restored; the others are restored all the same.

    Raises:
        GDPOSRError: no input, an output folder that cannot be made, a bad option, base or LoRA.
    """
    args = _parser().parse_args(argv)
    check_arguments(args.scale, 1, args.color_fix, "pt", args.tile, args.tile_overlap)
    targets = plan(args.input, args.output)
    if args.lora:
        find_adapter(args.lora)
    problems = restore_all(targets, _build(args), args.seed)
    if problems:
        names = ", ".join(path.name for path in problems)
        print(f"error: {len(problems)} of {len(targets)} failed: {names}", file=sys.stderr)
    return 1 if problems else 0


def plan(source: str, output: str) -> dict[Path, Path]:
    """For each picture of `source` the PNG in the folder `output` that it becomes.

    Raises:
        DatasetError: no picture, or two of one stem.
        OptionError: `output` cannot be a folder, or a result would replace a picture of `source`.
    """
    folder = Path(output)
    _check_writable(folder)
    targets: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for path in list_images(source):
        target = folder / f"{path.stem}.png"
        if target in taken:
            raise DatasetError(
                f"{taken[target]} and {path} would both become {target}; rename one of them"
            )
        if target.exists() and target.samefile(path):
            raise OptionError(f"-o {output}: {target} is an input; choose another output folder")
        taken[target] = path
        targets[path] = target
    return targets


def restore_all(targets: Mapping[Path, Path], restore: Restore, seed: int) -> dict[Path, str]:
    """Restore and write every picture; one that fails is reported and the others go on.

    Returns:
        What went wrong, by picture.
    """
    problems: dict[Path, str] = {}
    for path, target in tqdm(targets.items(), desc="inference", unit="image"):
        try:
            write_image(target, restore(read_image(path), noise_source(seed, path.name)))
        except ImageError as error:
            problems[path] = str(error)
        except torch.cuda.OutOfMemoryError:
            problems[path] = "the device has too little memory; give --tile, or a smaller one"
        if path in problems:
            tqdm.write(f"error: {path.name}: {problems[path]}", file=sys.stderr)
    return problems


def noise_source(seed: int, name: str) -> torch.Generator:
    """Generator seeded by `seed` and the file name alone: other pictures do not matter."""
    digest = hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _build(args: argparse.Namespace) -> Restore:
    """The pipeline with its LoRA on the best device of this machine, as a function."""
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    pipe = OneStepSRPipeline.from_pretrained(args.base, t_add=args.t_add)
    if args.lora:
        pipe.load_lora_weights(args.lora)
    pipe.to(PartialState().device)

    def restore(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        result = pipe(
            image,
            scale=args.scale,
            generator=generator,
            prompt=args.prompt,
            color_fix=args.color_fix,
            tile=args.tile,
            tile_overlap=args.tile_overlap,
            output_type="pt",
        )
        return result.images[0]

    return restore


def _check_writable(folder: Path) -> None:
    """Nothing is made yet: the folder appears with its first picture."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise OptionError(f"-o {folder}: {existing} is a file; give a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OptionError(f"-o {folder}: no permission to write in {existing}; give another folder")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="inference.py", description="Super-resolve pictures.")
    add = parser.add_argument
    add("-i", "--input", required=True, help="picture or folder")
    add("-o", "--output", required=True, help="folder for the results, NAME.png each")
    add("--base", default="mini", help="base model: mini, a folder or a hub id (mini)")
    add("--lora", metavar="RUN", help="experiments/NAME or an adapter folder (none)")
    add("--scale", type=float, default=4, help="output size divided by input size (4)")
    add("--seed", type=int, default=0, help="noise of a picture = seed + its file name (0)")
    add("--color_fix", choices=list(COLOR_FIXES), default="wavelet", help="(wavelet)")
    add("--tile", type=int, metavar="N", help="tile side in latent pixels (whole picture)")
    add("--tile_overlap", type=int, default=16, metavar="N", help="in latent pixels (16)")
    add("--t_add", type=int, metavar="N", help="noise level, 0 to 999 (the base's own)")
    add("--prompt", metavar="TEXT", help="text for the UNet (the base's own)")
    return parser
