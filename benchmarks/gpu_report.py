"""Everything that wants a GPU, in one command of under nine minutes.

    python -m benchmarks.gpu_report                  # on a GPU, at full width, 512 px
    python -m benchmarks.gpu_report --tiny           # try it on a CPU: figures mean nothing

Each part runs in a process of its own with a limit of its own, and is printed as soon as it is
known; one that takes longer is cut off and told. "floor" is what the arithmetic of a step takes at
the rate of a large bfloat16 product, measured in the same run: FLOPs by torch's FlopCounterMode.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import stage2_step
from benchmarks.inference_latency import our_pipeline
from benchmarks.stage2_variants import make_base, make_batch, random_metric_networks, scratch
from benchmarks.turns import machine, summary
from gdpo_sr.checkpoints.lora import add_lora, save_lora
from gdpo_sr.config.degradation import DegradationOptions
from gdpo_sr.config.load import load_options
from gdpo_sr.config.paths import ExperimentPaths
from gdpo_sr.data.degradations import RealESRGANDegradation
from gdpo_sr.train import build_accelerator

LIMITS = {"step": 200, "inference": 120, "stage1": 90, "degradation": 40, "tests": 80}
"""Seconds, by part."""
SWITCHES = ("train:reuse_latents=true", "train:group_chunk=1", "train:channels_last=true")
ROOT = Path(__file__).resolve().parents[1]


class Size:
    """What is measured: the real thing, or something that a CPU does in seconds."""

    def __init__(self, tiny: bool) -> None:
        self.device = "cpu" if tiny else "cuda"
        self.base = "sd:0.03125" if tiny else "sd:1"
        self.pixels, self.large = (64, 128) if tiny else (512, 2048)
        self.product, self.repeats = (256, 1) if tiny else (8192, 5)
        self.rewards = ["psnr_y"] if tiny else ["psnr_y", "musiq", "maniqa"]

    def ms(self, run: Callable[[], object]) -> list[float]:
        """Wall milliseconds of some runs after a first one, each until the device is done."""
        found = []
        for _ in range(self.repeats + 1):
            start = time.perf_counter()
            run()
            if self.device == "cuda":
                torch.cuda.synchronize()
            found.append(1e3 * (time.perf_counter() - start))
        return found[1:]

    def tell(self, name: str, run: Callable[[], object], per: int = 1) -> float:
        """Print and return the median for one of `per` pictures."""
        times = summary(self.ms(run))
        print(f"| {name} | {times.median / per:.1f} | {times.p90 / per:.1f} |", flush=True)
        return times.median / per


def rate(size: Size) -> float:
    """FLOP per millisecond of a large bfloat16 product."""
    n = size.product
    a, b = (torch.randn(n, n, device=size.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / summary(size.ms(lambda: a @ b)).median


def step(size: Size) -> None:
    """The stage-2 step: naive, ours, ours with each switch; and the floor."""
    speed = rate(size)
    print(f"\nbfloat16 product: {speed / 1e9:.1f} TFLOP/s")
    print("\n| stage-2 step | ms | p90 |\n|---|---|---|")
    args = argparse.Namespace(
        group=6, precision="bf16", rewards=size.rewards, random_metrics=True, size=size.pixels
    )
    with scratch() as folder, random_metric_networks():
        args.base = make_base(size.base, folder, size.device)
        for name in ("ours", "naive", *(f"ours, {switch}" for switch in SWITCHES)):
            run, _ = stage2_step.build(args, name, folder)
            if name == "ours":
                counter = FlopCounterMode(display=False)
                with counter:
                    run()
                flops = counter.get_total_flops()
                print(f"| floor ({flops / 1e12:.2f} TFLOP) | {flops / speed:.1f} | |", flush=True)
            size.tell(name, run)
            del run


def inference(size: Size) -> None:
    """One picture, with a LoRA, eight together, a large one by tiles."""
    print("\n| inference, bf16, a picture | ms | p90 |\n|---|---|---|")
    with scratch() as folder:
        base = make_base(size.base, folder, size.device)
        pipe = our_pipeline(base, "bf16", size.device)

        def restore(count: int, pixels: int) -> Callable[[], object]:
            pictures = [torch.rand(3, pixels // 4, pixels // 4) for _ in range(count)]
            return lambda: pipe(pictures, batch_size=count, output_type="pt")

        size.tell("one", restore(1, size.pixels))
        size.tell("eight together", restore(8, size.pixels), per=8)
        size.tell(f"one of {size.large} px", restore(1, size.large))
        unet = our_pipeline(base, "fp32", "cpu").unet
        add_lora(unet)
        lora = save_lora(unet, folder / "lora")
        pipe = our_pipeline(base, "fp32", size.device)
        pipe.load_lora_weights(lora)
        pipe.merge_lora_weights()
        pipe.to(torch.bfloat16)
        size.tell("one, with a LoRA", restore(1, size.pixels))


def stage1(size: Size) -> None:
    """One update of stage 1 on one picture, without LPIPS, whose weights may not be here."""
    from gdpo_sr.stage1.naosd_model import NAOSDModel

    print("\n| stage 1, a picture | ms | p90 |\n|---|---|---|")
    with scratch() as folder:
        base = make_base(size.base, folder, size.device)
        changes = ["train:losses:perceptual={}", "train:mixed_precision=bf16", "val:metrics={}"]
        changes += [f"network_g:base={base}", f"path:experiments_root={folder}"]
        changes += ["network_score:base=null", "datasets:val:max_images=1"]
        changes += [f"datasets:train:gt_size={size.pixels}", "datasets:val:gt_size=64"]
        options = load_options(ROOT / "options" / "naosd.yml", changes)
        model = NAOSDModel(options, ExperimentPaths(folder, "run"), build_accelerator(options))
        batch = make_batch(size.pixels, model.generator.prompt, str(model.accelerator.device))

        def update() -> None:
            model._learn(batch, 1)
            model._step()

        size.tell("one update", update)


def degradation(size: Size) -> None:
    """The loader's degradation on the device."""
    print("\n| degradation, a picture | ms | p90 |\n|---|---|---|")
    degrade = RealESRGANDegradation(DegradationOptions.model_validate({}), 4)
    rng = torch.Generator().manual_seed(0)
    for count in (1, 4, 16):
        pictures = torch.rand(count, 3, size.pixels, size.pixels, device=size.device)
        size.tell(f"batch {count}", lambda p=pictures: degrade(p, rng), per=count)


PARTS = {"step": step, "inference": inference, "stage1": stage1, "degradation": degradation}


def command(part: str, tiny: bool) -> list[str]:
    """What runs a part in a process of its own."""
    if part == "tests":
        return [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--no-header"]
    flags = ["--tiny"] if tiny else []
    return [sys.executable, "-m", "benchmarks.gpu_report", "--part", part, *flags]


def main() -> None:
    """Run the parts one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="on a CPU, to try the script")
    parser.add_argument("--only", nargs="+", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        PARTS[args.part](Size(args.tiny))
        return
    card = "CPU: not measured on a GPU" if args.tiny else torch.cuda.get_device_name()
    print(f"{machine('torch', 'diffusers', 'peft')}; {card}", flush=True)
    for part in args.only:
        try:
            done = subprocess.run(command(part, args.tiny), timeout=LIMITS[part], cwd=ROOT)
            if done.returncode:
                print(f"\n{part}: ended with status {done.returncode}", flush=True)
        except subprocess.TimeoutExpired:
            print(f"\n{part}: cut off after {LIMITS[part]} s", flush=True)


if __name__ == "__main__":
    main()
