"""How far one update of stage 2 points to a higher PSNR, and how far it is luck.

    python -m benchmarks.update_signal                          # a minute a row on one core
    python -m benchmarks.update_signal --updates 80 --only "lr, 8 px"

At the base, where the policy starts, the gradient of the mean PSNR-Y of restorations, after
inference's colour fix, is computed by backpropagation, from photos of its own: what an update
should follow. Each row draws the loss gradients of a number of updates, scales every weight's as
AdamW does (by its root mean square over the updates) and projects them on that gradient. *Signal*
is the mean of the projections divided by their standard deviation: after n updates the way to a
higher PSNR is n times the mean, the stray way only sqrt(n) times the deviation. With permuted
advantages it is 0. `t` is signal x sqrt(updates): below 2 it may be 0.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from accelerate import Accelerator

from gdpo_sr.config.load import load_options
from gdpo_sr.config.paths import ExperimentPaths
from gdpo_sr.group.sample import enlarge_lr
from gdpo_sr.stage2.gdpo_model import GDPOModel
from gdpo_sr.types import SRBatch
from gdpo_sr.utils.color_fix import apply_color_fix

LR = ("train:reward:fixed_perception_weight=0",)
CANDIDATE = (*LR, "train:update_input=candidate", "train:cell_size=null")
ROWS = {
    "candidate, noise (the paper's)": (*CANDIDATE, "train:target=noise"),
    "candidate, x0": CANDIDATE,
    "lr, whole pictures": (*LR, "train:cell_size=null"),
    "lr, 32 px": (*LR, "train:cell_size=32"),
    "lr, 16 px": (*LR, "train:cell_size=16"),
    "lr, 8 px": (*LR, "train:cell_size=8"),
    "lr, 8 px, perception 0.3": (
        "train:reward:fixed_perception_weight=0.3",
        "train:cell_size=8",
    ),
    "lr, 8 px, rewards before the colour fix": (
        *LR,
        "train:cell_size=8",
        "train:reward:color_fix=none",
    ),
    "lr, 8 px, permuted": (*LR, "train:cell_size=8", "train:control=permuted_advantages"),
}
"""PSNR is the only reward where perception's share is 0."""
LUMA = (65.481, 128.553, 24.966)
SKIPPED = 100
"""Updates' worth of photos between those of the rows and those of the wanted gradient."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=40, help="of each row (40)")
    parser.add_argument(
        "--wanted", type=int, default=20, help="batches of the wanted gradient (20)"
    )
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="rows (all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    wanted = psnr_gradient(build(()), args.wanted)
    print("| update | signal | t |\n|---|---|---|", flush=True)
    for name in args.only:
        found = projections(build(ROWS[name]), args.updates, wanted)
        signal = float(found.mean() / found.std())
        print(f"| {name} | {signal:+.2f} | {signal * args.updates**0.5:+.1f} |", flush=True)


def build(force: tuple[str, ...]) -> GDPOModel:
    """A trainer of the main job that writes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        own = ["num_threads=1", "val:metrics={}", "datasets:val:max_images=1"]
        options = load_options(
            "options/gdpo_sr.yml", [*own, f"path:experiments_root={folder}", *force]
        )
        paths = ExperimentPaths(options.path.experiments_root, options.name)
        return GDPOModel(options, paths, Accelerator())


def take_gradient(model: GDPOModel) -> torch.Tensor:
    """Gradients of the LoRA's B, (P,), and none left behind; those of A are 0 at the start."""
    found = [p.grad.flatten() for name, p in model.trained.items() if ".lora_B." in name]
    gradient = torch.cat(found)
    for parameter in model.trained.values():
        parameter.grad = None
    return gradient


def psnr_gradient(model: GDPOModel, batches: int) -> torch.Tensor:
    """Gradient (P,) of the mean PSNR-Y, over photos and degradations that no row sees."""
    model.random["degradation"].manual_seed(1)
    source = model._batches()
    for _ in range(SKIPPED):
        next(source)
    for _ in range(batches):
        (psnr_y(model, model.to_batch(next(source))) / batches).backward()
    return take_gradient(model)


def psnr_y(model: GDPOModel, batch: SRBatch) -> torch.Tensor:
    """Mean PSNR-Y of one restoration of each picture, with a graph."""
    generator = model.generator
    latents = generator.encode(enlarge_lr(batch.lr, batch.hr))
    noise = torch.randn(latents.shape, generator=model.random["update"])
    restored = generator.restore_latents(latents, noise, generator.prompt_encoder(batch.prompts))
    decoded = generator.decode_unclamped(restored).clamp(-1, 1) / 2 + 0.5
    colours = enlarge_lr(batch.lr, batch.hr) / 2 + 0.5
    images = apply_color_fix(model.options.val.color_fix, decoded, colours)
    luma = torch.tensor(LUMA).view(1, 3, 1, 1) / 255
    error = ((images - batch.hr) * luma).sum(1).square().mean((1, 2))
    return -10 * torch.log10(error).mean()


def projections(model: GDPOModel, updates: int, wanted: torch.Tensor) -> torch.Tensor:
    """Projection (updates,) of every update's scaled step on the wanted gradient."""
    source, steps = model._batches(), []
    for _ in range(updates):
        [item] = model.prepare_update([model.to_batch(next(source))])
        model.compute_loss(item).loss.backward()
        steps.append(-take_gradient(model))
    scale = torch.stack(steps).square().mean(0).sqrt().clamp_min(1e-12)
    return torch.stack([(step / scale) @ wanted for step in steps])


if __name__ == "__main__":
    main()
