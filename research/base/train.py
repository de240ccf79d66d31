"""Train the embedded base from a folder of photographs, on CPU or GPU, within a time budget.

    python research/base/train.py --photos photos/train --out runs/mini --minutes 180

Three steps, or four; a step that is complete is not done again, and one that was stopped goes on:

1. start         the autoencoder is fitted, the generator's UNet starts as the best linear one
2. diffusion     OUT/mini-diffusion, a base diffusion model on the autoencoder's latents
3. restoration   NAOSDModel with the energy score alone (restoration.yml); OUT/mini
4. distillation  with --distill only: NAOSDModel with VSD, perceptual loss and energy score
                 (distillation.yml); lower NIQE and PIQE for lower PSNR and some false texture

Every random number comes from --seed. Steps 3 and 4 are ordinary runs of `train.py -opt`; how many
updates fit into their share of the budget is measured before each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from fit_autoencoder import fit_autoencoder
from networks import PROMPT, build_text_encoder, build_tokenizer, build_unet, build_vae
from photo_stream import PhotoStream
from start_linear import start_linear
from train_diffusion import DiffusionTrainer

from gdpo_sr.checkpoints.model_folder import save_model_folder
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.one_step import OneStepScheduler
from gdpo_sr.stage1.naosd_model import LATEST_MODEL

REPOSITORY = Path(__file__).resolve().parents[2]
DIFFUSION, DISTILLATION = 0.2, 0.2
"""Shares of the time budget; restoration has the rest."""
TIMED_UPDATES = 12


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--photos", required=True, type=Path, help="folder of HR photographs")
    add("--out", required=True, type=Path, help="folder for states and models")
    add("--minutes", type=float, default=180, help="training time in all (180)")
    add("--seed", type=int, default=0, help="of everything random (0)")
    add("--crop", type=int, default=128, help="HR crop in pixels (128)")
    add("--processes", type=int, default=2, help="of steps 3 and 4, one per core or GPU (2)")
    add("--threads", type=int, default=1, help="torch threads per process (1)")
    add("--distill", action="store_true", help="do step 4 as well")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def make_start(args: argparse.Namespace) -> Path:
    """Step 1: a complete model whose UNet is linear, OUT/start."""
    folder = args.out / "start"
    if folder.is_dir():
        return folder
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer(args.out / "tokenizer")
    parts = {
        "unet": build_unet(),
        "vae": build_vae(),
        "text_encoder": build_text_encoder(tokenizer),
        "tokenizer": tokenizer,
        "scheduler": OneStepScheduler(),
        "prompt": PROMPT,
    }
    prepare_parts(parts, PhotoStream(args.photos, args.crop, args.seed), args.seed)
    save_model(parts, folder, torch.float32)
    return folder


@torch.no_grad()
def prepare_parts(parts: dict, stream: PhotoStream, seed: int) -> None:
    """Fit the autoencoder, then make the UNet the best linear restoration; 240 crops."""
    rng = torch.Generator().manual_seed(seed)
    hr = stream.next_crops(240)
    lr = torch.cat([stream.enlarged_lr(part, rng) for part in hr.split(6)])
    fit_autoencoder(parts["vae"], hr, lr)
    generator = build_generator(parts)
    latents, clean = generator.encode(lr), generator.encode(hr)
    noise = torch.randn(latents.shape, generator=rng)
    noisy = generator.scheduler.add_noise(latents, noise)
    start_linear(parts["unet"], noisy, generator.scheduler.target_epsilon(noisy, clean))


def save_model(parts: dict, folder: Path, dtype: torch.dtype) -> None:
    """Write a model in diffusers layout; networks in `dtype`, the small autoencoder in float32."""
    networks = {name: parts[name].to("cpu", dtype) for name in ("unet", "text_encoder")}
    save_model_folder({**parts, **networks}, folder)


def train_diffusion(args: argparse.Namespace, start: Path) -> Path:
    """Step 2: the base diffusion model, OUT/mini-diffusion."""
    folder = args.out / "mini-diffusion"
    if folder.is_dir():
        return folder
    torch.manual_seed(args.seed + 1)
    parts = {**load_components(start), "unet": build_unet()}
    generator = build_generator(parts).to(args.device)
    stream = PhotoStream(args.photos, args.crop, args.seed + 1, args.device)
    minutes = args.minutes * DIFFUSION
    state = args.out / "diffusion_state.pt"
    DiffusionTrainer(generator, stream, state, minutes, seed=args.seed + 1).run()
    save_model(parts, folder, torch.float16)
    return folder


def train_stage1(args: argparse.Namespace, step: str, base: Path, score: Path) -> Path:
    """Steps 3 and 4: a run of NAOSDModel within its share of the budget; its model folder."""
    model = args.out / "experiments" / f"mini_{step}" / "models" / LATEST_MODEL
    done = args.out / f"{step}.done"
    if not done.is_file():
        options = {
            "path:experiments_root": args.out / "experiments",
            "network_g:base": base,
            "network_score:base": score,
            "datasets:train:dataroot_gt": args.photos,
            "datasets:train:gt_size": args.crop,
            "manual_seed": args.seed,
            "num_threads": args.threads,
        }
        updates = updates_in_budget(args, step, options)
        run_trainer(args, step, {**options, "train:total_iter": updates}, ["--auto_resume"])
        done.touch()
    return model


def updates_in_budget(args: argparse.Namespace, step: str, options: dict) -> int:
    """Updates that fit into the step's share; measured once, kept in OUT/<step>.json."""
    plan = args.out / f"{step}.json"
    if not plan.is_file():
        trial = {"name": f"trial_{step}", "train:scheduler:warmup_iter": 0}
        trial |= {"val:val_freq": 0, "datasets:val:max_images": 1}
        seconds = []
        for count in (2, 2 + TIMED_UPDATES):
            start = time.monotonic()
            run_trainer(args, step, {**options, **trial, "train:total_iter": count}, [])
            seconds.append(time.monotonic() - start)
        each = max((seconds[1] - seconds[0]) / TIMED_UPDATES, 1e-3)
        updates = max(int(60 * args.minutes * share(step, args.distill) / each), 100)
        plan.write_text(json.dumps({"seconds_per_update": each, "updates": updates}))
    return json.loads(plan.read_text())["updates"]


def launcher(processes: int) -> list[str]:
    """Command that starts a script in so many processes; `accelerate launch --cpu` starts one."""
    if processes == 1:
        return [sys.executable]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, "--nproc_per_node", str(processes)]


def share(step: str, distill: bool) -> float:
    """Share of the time budget that a step of stage 1 has."""
    if step == "distillation":
        return DISTILLATION
    return 1 - DIFFUSION - (DISTILLATION if distill else 0)


def run_trainer(args: argparse.Namespace, step: str, options: dict, flags: list[str]) -> None:
    """`train.py -opt <step>.yml` in `--processes` processes; stops this script if it fails."""
    command = [*launcher(args.processes), str(REPOSITORY / "train.py")]
    command += ["-opt", str(Path(__file__).with_name(f"{step}.yml"))]
    command += ["--force_yml", *(f"{key}={value}" for key, value in options.items()), *flags]
    on_cpu = {"ACCELERATE_USE_CPU": "true"} if args.device == "cpu" else {}
    status = subprocess.run(command, env={**os.environ, **on_cpu}, check=False).returncode
    if status:
        sys.exit(f"train_mini: {step} ended with status {status}; run the same command to go on")


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    start = make_start(args)
    score = train_diffusion(args, start)
    model = train_stage1(args, "restoration", start, score)
    if args.distill:
        model = train_stage1(args, "distillation", model, score)
    save_model(load_components(model), args.out / "mini", torch.float16)
    print(f"models: {args.out / 'mini'} and {score}")


if __name__ == "__main__":
    main()
