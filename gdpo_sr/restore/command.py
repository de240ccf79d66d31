"""What the command `inference` does with its arguments."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from gdpo_sr.checkpoints.load_adapter import load_adapter, merge_adapters
from gdpo_sr.checkpoints.lora import find_adapter
from gdpo_sr.checkpoints.meaning import Meaning, base_of, read_meaning
from gdpo_sr.checkpoints.pixel_semantic import load_pixel_semantic
from gdpo_sr.data.captions import file_captions
from gdpo_sr.generators.base_folder import base_folder
from gdpo_sr.generators.load import load_generator
from gdpo_sr.generators.load_part import load_text_encoder
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.pipelines.picture_inputs import check_arguments
from gdpo_sr.pipelines.restorer import RestoreOptions, Restorer
from gdpo_sr.restore import manifest
from gdpo_sr.restore.candidate_sink import Score
from gdpo_sr.restore.contact_sheet import check_sheet, write_sheet
from gdpo_sr.restore.options import FolderOptions
from gdpo_sr.restore.plan import Job, by_size
from gdpo_sr.restore.restore_folder import restore_folder
from gdpo_sr.restore.settings import Settings, Standing, check_kinds, settings_of, standing
from gdpo_sr.types import OptionError
from gdpo_sr.utils.devices import checked_device
from gdpo_sr.utils.lean_imports import quiet_libraries
from gdpo_sr.utils.processes import gather, this_process

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BAR = (  # always pictures a second, never seconds a picture
    "inference: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left, "
    "{rate_noinv_fmt}]"
)


def run(args: argparse.Namespace, jobs: list[Job]) -> int:
    """Restore pictures as `gdpo_sr.inference.main` says; its result and its errors."""
    _check(args)
    if args.preview is not None:
        check_sheet(Path(args.preview), jobs)
    _choose_base(args)
    device = checked_device(args.device) if args.device else None
    state = this_process(args.device == "cpu")
    captions = _captions(jobs) if args.captions else {}
    settings = settings_of(args)
    found = _standing(jobs, args, settings, captions)
    state.wait_for_everyone()  # all plan before the first writes
    if state.is_main_process:
        _announce(found, len(jobs))
    options = _folder_options(args, captions, settings)
    mine = found.todo[state.process_index :: state.num_processes]
    problems = gather(state, _restore(mine, args, options, device or state.device, state))
    if state.is_main_process:
        _summarise(len(found.todo), problems)
        if args.preview is not None:
            print(f"preview: {write_sheet(Path(args.preview), jobs)}")
    return 1 if problems else 0


def _standing(
    jobs: list[Job], args: argparse.Namespace, settings: Settings, captions: dict[Path, str]
) -> Standing:
    """What is to be done: with --overwrite everything, with --skip_existing what is not there."""
    check_kinds(jobs, Path(args.output))
    if args.overwrite:
        return Standing(todo=jobs)
    if args.skip_existing:
        there = [job for job in jobs if os.path.exists(job.target)]
        return Standing([job for job in jobs if job not in there], kept=there)
    return standing(jobs, Path(args.output), settings, captions)


def _restore(
    jobs: list[Job],
    args: argparse.Namespace,
    options: FolderOptions,
    device: torch.device,
    state: Any,
) -> list[str]:
    """Restore this process's pictures; returns the names of those that failed."""
    if not jobs:
        return []
    score = _score(args.select, device) if args.select else None
    restorer = _build(args, device)
    problems: list[str] = []
    with tqdm(
        total=len(jobs), unit="image", disable=not state.is_main_process, bar_format=_BAR
    ) as bar:

        def tell(job: Job, problem: str | None) -> None:
            bar.update()
            if problem:
                problems.append(job.source.name)
                tqdm.write(f"error: {job.source.name}: {problem}", file=sys.stderr)

        ordered = by_size(jobs) if args.batch > 1 else jobs
        restore_folder(ordered, restorer, options, tell, score)
    return problems


def _captions(jobs: list[Job]) -> dict[Path, str]:
    sources = [job.source for job in jobs]
    return dict(zip(sources, file_captions(sources), strict=True))


def _choose_base(args: argparse.Namespace) -> None:
    """base, revision, unet and vae as given, else those that the LoRA was trained on."""
    meaning = read_meaning(find_adapter(args.lora)) if args.lora else Meaning()
    for name, value in base_of(meaning, vars(args)).items():
        setattr(args, name, value)


def _announce(found: Standing, count: int) -> None:
    """Which results are left as they are, and which are made again and why."""
    if found.kept:
        kept = len(found.kept)
        print(f"{kept} of {count} exist already and were skipped; --overwrite redoes them")
    if found.unknown:
        print(
            f"{len(found.unknown)} of {count} exist already, no {manifest.NAME} says how they were "
            "made, and were skipped; --overwrite redoes them"
        )
    if found.changed:
        keys = sorted({key for keys in found.changed.values() for key in keys})
        print(
            f"{len(found.changed)} of {count} were made by other settings ({', '.join(keys)}) and "
            "are made again; --skip_existing keeps them"
        )


def _summarise(todo: int, problems: list[str]) -> None:
    if problems:
        names = ", ".join(sorted(problems))
        print(f"error: {len(problems)} of {todo} failed: {names}", file=sys.stderr)


def _folder_options(
    args: argparse.Namespace, captions: dict[Path, str], settings: Settings
) -> FolderOptions:
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
        strip=args.strip,
        max_pixels=args.max_pixels,
        captions=captions,
        settings=settings,
    )


def _build(args: argparse.Namespace, device: torch.device) -> Restorer:
    """The model with its LoRA, without the text encoder where that is done."""
    quiet_libraries()
    dtype = PRECISIONS[args.precision]
    generator = load_generator(
        args.base,
        args.revision,
        args.t_add,
        torch.float32 if args.lora else dtype,  # rounded when it is merged
        args.unet,
        args.vae,
    )
    if args.lora:
        _load_lora(generator, args)
    generator.to(device, dtype)
    if not args.captions:  # one prompt for all pictures
        prompt = generator.prompt if args.prompt is None else args.prompt
        text_encoder = partial(load_text_encoder, base_folder(args.base, args.revision), dtype)
        generator.prompt_encoder.release([prompt], text_encoder)
    restorer = Restorer(generator, device)
    if args.compile:
        restorer.compile()
    return restorer


def _load_lora(generator: NoiseAwareGenerator, args: argparse.Namespace) -> None:
    """Merged, but where an output is mixed of two."""
    given = {"t_add": args.t_add, "prompt": args.prompt}
    dials = args.pixel_scale, args.semantic_scale
    if dials == (1, 1):
        load_adapter(generator, args.lora, given=given, scale=args.lora_scale)
        merge_adapters(generator)
    else:
        load_pixel_semantic(generator, args.lora, *dials, given)


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
    for name in ("lora", "unet", "vae", "select", "device", "preview"):
        if getattr(args, name) == "":
            raise OptionError(f"--{name} '': give a name, or leave the option out")
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
    if not args.lora and (args.pixel_scale, args.semantic_scale) != (1, 1):
        raise OptionError("--pixel_scale and --semantic_scale need --lora: one of PiSA-SR")
    if not args.lora and args.lora_scale != 1:
        raise OptionError(f"--lora_scale {args.lora_scale:g} needs --lora: name the LoRA")
    if args.bit_depth == 16 and args.format not in ("png", "tif"):
        raise OptionError(f"--bit_depth 16: --format {args.format} has 8 bits; use png or tif")
    if not 1 <= args.quality <= 100 or args.batch < 1:
        raise OptionError(
            f"--quality {args.quality}, --batch {args.batch}: use 1 to 100, and 1 or more"
        )
