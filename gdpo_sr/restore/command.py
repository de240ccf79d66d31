"""What the command `inference` does with its arguments."""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import diffusers
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from gdpo_sr.checkpoints.lora import find_adapter
from gdpo_sr.data.captions import file_captions
from gdpo_sr.generators.base_folder import base_folder
from gdpo_sr.generators.load import load_text_encoder
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline, RestoreOptions
from gdpo_sr.pipelines.picture_inputs import check_arguments
from gdpo_sr.restore.candidate_sink import Score
from gdpo_sr.restore.plan import Job, by_size, plan, without_finished
from gdpo_sr.restore.restore_folder import FolderOptions, restore_folder
from gdpo_sr.types import OptionError
from gdpo_sr.utils.image_io import DEEP, WRITABLE

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LONGEST_WAIT = timedelta(days=7)  # of a process for the others, which may have more to do


def run(args: argparse.Namespace) -> int:
    """Restore pictures as `gdpo_sr.inference.main` says; its result and its errors."""
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
    captions = _captions(jobs) if args.captions else {}
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
        restore_folder(ordered, pipe, _folder_options(args, captions), tell, score)
    return problems


def _captions(jobs: list[Job]) -> dict[Path, str]:
    sources = [job.source for job in jobs]
    return dict(zip(sources, file_captions(sources), strict=True))


def _summarise(found: int, todo: int, problems: list[str]) -> None:
    if found > todo:
        print(f"{found - todo} of {found} exist already and were skipped; --overwrite redoes them")
    if problems:
        names = ", ".join(sorted(problems))
        print(f"error: {len(problems)} of {todo} failed: {names}", file=sys.stderr)


def _folder_options(args: argparse.Namespace, captions: dict[Path, str]) -> FolderOptions:
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
        captions=captions,
    )


def _build(args: argparse.Namespace, device: torch.device) -> OneStepSRPipeline:
    """The pipeline with its LoRA, without the text encoder where that is done."""
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    dtype = PRECISIONS[args.precision]
    pipe = OneStepSRPipeline.from_pretrained(
        args.base, torch_dtype=dtype, t_add=args.t_add, unet=args.unet, vae=args.vae
    )
    if args.lora:
        pipe.load_lora_weights(args.lora)
    pipe.to(device)
    if not args.captions:  # one prompt for all pictures
        prompt = pipe.config.prompt if args.prompt is None else args.prompt
        text_encoder = partial(load_text_encoder, base_folder(args.base), dtype)
        pipe.release_text_encoder([prompt], text_encoder)
    if args.compile:
        pipe.compile()
    return pipe


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
