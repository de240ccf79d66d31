"""Super-resolve pictures: `python inference.py -i FOLDER -o FOLDER [--lora experiments/NAME]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import diffusers
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from gdpo_sr.folder_jobs.candidate_sink import HEAT_RANGE, Score
from gdpo_sr.folder_jobs.plan import Job, by_size, plan, without_finished
from gdpo_sr.folder_jobs.restore_folder import FolderOptions, restore_folder
from gdpo_sr.lora import find_adapter
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline, RestoreOptions
from gdpo_sr.pipelines.picture_inputs import check_arguments
from gdpo_sr.types import OptionError
from gdpo_sr.utils.color_fix import COLOR_FIXES
from gdpo_sr.utils.image_io import DEEP, WRITABLE

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FORMATS = ("png", "jpg", "webp", "tif", "bmp")
_LONGEST_WAIT = timedelta(days=7)  # of a process for the others, which may have more to do


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0, or 1 if a picture could not be restored; the others are restored all the same.

    Raises:
        GDPOSRError: no input, an output folder that cannot be made, a bad option, base or LoRA.
    """
    args = _parser().parse_args(argv)
    _check(args)
    jobs = plan(args.input, args.output, f".{args.format}", args.recursive)
    todo = jobs if args.overwrite else without_finished(jobs)
    if args.lora:
        find_adapter(args.lora)
    state = PartialState(timeout=_LONGEST_WAIT)
    state.wait_for_everyone()  # all plan before the first writes
    problems = _restore(todo[state.process_index :: state.num_processes], args, state)
    problems = gather_object(problems)
    if state.is_main_process:
        _summarise(len(jobs), len(todo), problems)
    return 1 if problems else 0


def _restore(jobs: list[Job], args: argparse.Namespace, state: PartialState) -> list[str]:
    """Restore this process's pictures; returns the names of those that failed."""
    if not jobs:
        return []
    score = _score(args.select, state.device) if args.select else None
    pipe = _build(args, state.device)
    problems: list[str] = []
    hidden = not state.is_main_process
    with tqdm(total=len(jobs), desc="inference", unit="image", disable=hidden) as bar:

        def tell(job: Job, problem: str | None) -> None:
            bar.update()
            if problem:
                problems.append(job.source.name)
                tqdm.write(f"error: {job.source.name}: {problem}", file=sys.stderr)

        ordered = by_size(jobs) if args.batch > 1 else jobs
        restore_folder(ordered, pipe, _folder_options(args), tell, score)
    return problems


def _summarise(found: int, todo: int, problems: list[str]) -> None:
    if found > todo:
        print(f"{found - todo} of {found} exist already and were skipped; --overwrite redoes them")
    if problems:
        names = ", ".join(sorted(problems))
        print(f"error: {len(problems)} of {todo} failed: {names}", file=sys.stderr)


def _folder_options(args: argparse.Namespace) -> FolderOptions:
    return FolderOptions(
        restore=RestoreOptions(
            args.t_add, args.prompt, args.color_fix, args.tile, args.tile_overlap, args.batch
        ),
        folder=Path(args.output),
        seed=args.seed,
        scale=args.scale,
        size=args.size,
        long_side=args.long_side,
        candidates=args.candidates,
        choice="best" if args.select else "mean" if args.mean else "first",
        uncertainty=args.uncertainty,
        bit_depth=args.bit_depth,
        quality=args.quality,
    )


def _build(args: argparse.Namespace, device: torch.device) -> OneStepSRPipeline:
    """The pipeline with its LoRA."""
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    dtype = PRECISIONS[args.precision]
    pipe = OneStepSRPipeline.from_pretrained(args.base, torch_dtype=dtype, t_add=args.t_add)
    if args.lora:
        pipe.load_lora_weights(args.lora)
    return pipe.to(device)


def _score(name: str, device: torch.device) -> Score:
    """A no-reference metric as a function, higher is better."""
    from gdpo_sr.metrics.registry import create_metric

    metric = create_metric(name, str(device))
    if metric.full_reference:
        raise OptionError(f"--select {name}: it needs a reference; choose one without, as piqe")
    sign = -1.0 if metric.lower_better else 1.0
    return lambda image: sign * float(metric(image.to(device)))


def _check(args: argparse.Namespace) -> None:
    """Raise OptionError for contradictions, before anything is read."""
    check_arguments(args.scale, args.candidates, args.color_fix, "pt", args.tile, args.tile_overlap)
    combined = bool(args.select) + args.mean
    if args.select and args.mean:
        raise OptionError("--select and --mean exclude each other; give one")
    if args.candidates > 1 and not (combined or args.uncertainty):
        raise OptionError(
            f"--candidates {args.candidates}: say what to do with them, by --select METRIC, "
            "--mean or --uncertainty"
        )
    if args.candidates < 2 and (combined or args.uncertainty):
        raise OptionError("--select, --mean and --uncertainty need --candidates 2 or more")
    if args.bit_depth == 16 and WRITABLE[f".{args.format}"] not in DEEP:
        raise OptionError(f"--bit_depth 16: --format {args.format} has 8 bits; use png or tif")
    if not 1 <= args.quality <= 100 or args.batch < 1:
        raise OptionError(
            f"--quality {args.quality}, --batch {args.batch}: use 1 to 100, and 1 or more"
        )


def _size(text: str) -> tuple[int, int]:
    """(H, W) of "WxH"."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"'{text}' is not WIDTHxHEIGHT, as 1920x1080")
    return int(height), int(width)


def _side(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of pixels")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="inference.py", description="Super-resolve pictures.")
    add = parser.add_argument
    add("-i", "--input", required=True, nargs="+", help="pictures, folders, or quoted patterns")
    add("-o", "--output", required=True, help="folder for the results")
    add("-r", "--recursive", action="store_true", help="look into subfolders; the tree is kept")
    add("--overwrite", action="store_true", help="restore again what exists (skip it)")
    add("--base", default="mini", help="base model: mini, a folder or a hub id (mini)")
    add("--lora", metavar="RUN", help="experiments/NAME or an adapter folder (none)")
    add("--precision", choices=list(PRECISIONS), default="fp32", help="of the model (fp32)")
    size = parser.add_argument_group("size, one of").add_mutually_exclusive_group()
    size.add_argument("--scale", type=float, default=4, help="output side / input side (4)")
    size.add_argument("--size", type=_size, metavar="WxH", help="enlarge to cover it, then crop")
    size.add_argument("--long_side", type=_side, metavar="N", help="longer side in pixels")
    look = parser.add_argument_group("look").add_argument
    look("--seed", type=int, default=0, help="noise of a picture = seed + its file name (0)")
    look("--t_add", type=int, metavar="N", help="noise level, 0 to 999 (the base's own)")
    look("--prompt", metavar="TEXT", help="text for the UNet (the base's own)")
    look("--color_fix", choices=list(COLOR_FIXES), default="wavelet", help="(wavelet)")
    several = parser.add_argument_group("several noises").add_argument
    several("--candidates", type=int, default=1, metavar="N", help="noises per picture (1)")
    several("--select", metavar="METRIC", help="keep the best by a no-reference metric")
    several("--mean", action="store_true", help="average the candidates")
    several("--uncertainty", action="store_true", help=_UNCERTAINTY_HELP)
    files = parser.add_argument_group("files").add_argument
    files("--format", choices=FORMATS, default="png", help="(png)")
    files("--quality", type=int, default=95, metavar="N", help="of jpg and webp, 1 to 100 (95)")
    files("--bit_depth", type=int, choices=(8, 16), help="(as the input; 16 for png and tif)")
    speed = parser.add_argument_group("memory and speed").add_argument
    speed("--tile", type=int, metavar="N", help="tile side in latent pixels, 0: none (by size)")
    speed("--tile_overlap", type=int, default=16, metavar="N", help="in latent pixels (16)")
    speed("--batch", type=int, default=1, metavar="N", help="tiles or pictures at a time (1)")
    return parser


_UNCERTAINTY_HELP = (
    "write uncertainty/NAME.png into the output folder: where the candidates differ, from black "
    f"(not) to bright (by {HEAT_RANGE:g} of the range or more)"
)
