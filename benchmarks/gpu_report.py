"""Everything that wants a GPU, in one command of under nine minutes.

    python -m benchmarks.gpu_report                  # on a GPU, at full width, 512 px
    python -m benchmarks.gpu_report --tiny           # try it on a CPU: figures mean nothing

Each part runs in a process of its own with a limit of its own, and is printed as soon as it is
known; one that takes longer is cut off and told. "floor" is what the arithmetic of a step takes at
the rate of a large bfloat16 product, measured in the same run: FLOPs by torch's FlopCounterMode.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import stage1_step, stage2_step
from benchmarks.inference_latency import PlainPipeline, our_pipeline
from benchmarks.stage2_variants import PHOTO, make_base, random_metric_networks, scratch
from benchmarks.turns import machine, summary
from gdpo_sr.checkpoints.lora import add_lora, save_lora
from gdpo_sr.config.degradation import DegradationOptions
from gdpo_sr.data.degradations import RealESRGANDegradation
from gdpo_sr.stage2.build_rewards import PRECISIONS
from gdpo_sr.utils.image_io import read_image

LIMITS = {
    "inference": 90, "step": 170, "rewards": 40, "stage1": 60, "degradation": 30, "tests": 90
}  # fmt: skip
"""Seconds, by part."""
ROOT = Path(__file__).resolve().parents[1]


class Size:
    """What is measured: the real thing, or something that a CPU does in seconds."""

    def __init__(self, tiny: bool) -> None:
        self.device = "cpu" if tiny else "cuda"
        self.base = "sd:0.03125" if tiny else "sd:1"
        self.pixels, self.large = (64, [128]) if tiny else (512, [2048, 3840])
        self.product, self.repeats = (256, 1) if tiny else (8192, 5)
        self.rewards = ["psnr_y"] if tiny else ["psnr_y", "musiq", "maniqa"]
        self.photo = 64 if tiny else 512

    def steps(self) -> dict[str, str]:
        """Variants of the stage-2 step: what `stage2_step.build` is given."""
        last = "train:channels_last=true"
        kept = [m for m in self.rewards if m != "psnr_y"]
        half, tf32 = (
            ",".join([last, *(f"train:reward:perception:{m}:precision={p}" for m in kept)])
            for p in ("bf16", "tf32")
        )
        return {
            "ours": f"ours, {half}",
            "naive": "naive",
            "ours, without CUDA graphs": f"ours, {half},train:cuda_graphs=false",
            "ours, rewards in TF32": f"ours, {tf32}",
            "ours, rewards in float32": f"ours, {last}",
            "ours, PSNR alone": f"ours, {last},train:reward:perception={{}}",
            "ours, channels first": f"ours, {half.removeprefix(last).strip(',')}".strip(", "),
            "ours, latents reused": f"ours, {half},train:reuse_latents=true",
            "ours, one candidate a pass": f"ours, {half},train:group_chunk=1",
        }

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

    def tell(self, name: str, run: Callable[[], object], per: int = 1) -> None:
        """Print the median for one of `per` pictures, and the memory in GiB: what tensors take at
        the peak, and what the process holds.
        """
        run()  # a pass is recorded when it comes again
        times = summary(self.ms(run))
        cells = [f"{times.median / per:.1f}", f"{times.p90 / per:.1f}", *self._memory()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)

    def begin(self) -> None:
        """Forget the memory of what was measured before."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _memory(self) -> tuple[str, str]:
        if self.device == "cpu":
            return "", ""
        peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return f"{peaks[0] / 2**30:.1f}", f"{peaks[1] / 2**30:.1f}"


def rate(size: Size) -> float:
    """FLOP per millisecond of a large bfloat16 product."""
    n = size.product
    a, b = (torch.randn(n, n, device=size.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / summary(size.ms(lambda: a @ b)).median


def step(size: Size) -> None:
    """The stage-2 step: naive, ours, ours with each switch; and the floor."""
    speed = rate(size)
    print(f"\nbfloat16 product: {speed / 1e9:.1f} TFLOP/s")
    head("stage-2 step")
    args = argparse.Namespace(
        group=6, precision="bf16", rewards=size.rewards, random_metrics=True, size=size.pixels
    )
    with scratch() as folder, random_metric_networks():
        args.base = make_base(size.base, folder, size.device)
        for name, variant in size.steps().items():
            size.begin()
            run, _ = stage2_step.build(args, variant, folder)
            if name == "ours":
                counter = FlopCounterMode(display=False)
                with counter:
                    run()
                flops = counter.get_total_flops()
                floor = f"floor ({flops / 1e12:.2f} TFLOP)"
                print(f"| {floor} | {flops / speed:.1f} | | | |", flush=True)
            size.tell(name, run)
            del run, _


def head(title: str) -> None:
    """The first two lines of a table."""
    print(f"\n| {title} | ms | p90 | peak GiB | held GiB |\n|---|---|---|---|---|", flush=True)


def inference(size: Size) -> None:
    """One picture, with a LoRA, eight together, a large one by tiles."""
    head("inference, bf16, a picture")
    with scratch() as folder:
        base = make_base(size.base, folder, size.device)
        plain, picture = PlainPipeline(base, size.device), torch.rand(1, 3, *[size.pixels // 4] * 2)
        size.tell("one, plain pipeline in float32", lambda own=plain: own(picture))
        del plain
        size.begin()
        pipe = our_pipeline(base, "bf16", size.device)

        def restore(count: int, pixels: int) -> Callable[[], object]:
            pictures = [torch.rand(3, pixels // 4, pixels // 4) for _ in range(count)]
            return lambda: pipe(pictures, batch_size=count, output_type="pt")

        size.tell("one", restore(1, size.pixels))
        recorder, pipe.generator.recorder = pipe.generator.recorder, None
        size.tell("one, without CUDA graphs", restore(1, size.pixels))
        pipe.generator.recorder = recorder
        size.tell("eight together", restore(8, size.pixels), per=8)
        for pixels in size.large:
            size.begin()
            size.tell(f"one of {pixels} px, by tiles", restore(1, pixels))
        unet = our_pipeline(base, "fp32", "cpu").unet
        add_lora(unet)
        lora = save_lora(unet, folder / "lora")
        pipe = our_pipeline(base, "fp32", size.device)
        pipe.load_lora_weights(lora)
        pipe.merge_lora_weights()
        pipe.to(torch.bfloat16)
        size.tell("one, with a LoRA", restore(1, size.pixels))


def rewards(size: Size) -> None:
    """MUSIQ and MANIQA, random weights, by precision: time, and what it changes inside a group, in
    units of the group's spread.
    """
    from gdpo_sr.metrics import create_metric

    photo = torch.nn.functional.interpolate(
        read_image(PHOTO)[None], size=[size.photo] * 2, mode="bicubic"
    )
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(6, 3, size.photo // 8, size.photo // 8, generator=rng)
    change = 0.05 * torch.nn.functional.interpolate(noise, size=photo.shape[-2:], mode="bicubic")
    group = (photo + change).clamp(0, 1).to(size.device)
    head("rewards of six candidates")
    told = []
    for name in size.rewards[1:]:
        with random_metric_networks():
            metric = create_metric(name, size.device, pretrained=False)
        exact = metric(group)
        for precision, kind in PRECISIONS.items():
            size.begin()
            metric.precision = kind
            size.tell(f"{name}, {precision}", lambda own=metric: own(group))
            error = float((metric(group) - exact).abs().max() / exact.std())
            told.append(f"{name} in {precision}: {error:.4f}")
    print(f"\nLargest change of a score, of the group's deviation: {'; '.join(told)}", flush=True)


def stage1(size: Size) -> None:
    """One update of stage 1 on one picture, without LPIPS, whose weights may not be here."""
    head("stage 1, a picture")
    args = argparse.Namespace(precision="bf16", size=size.pixels)
    with scratch() as folder:
        args.base = make_base(size.base, folder, size.device)
        for name in (stage1_step.OWN, stage1_step.NAIVE):
            size.begin()
            run = stage1_step.build(args, name, folder)
            size.tell(f"one update, {name}", run)
            del run


def degradation(size: Size) -> None:
    """The loader's degradation on the device."""
    head("degradation, a picture")
    degrade = RealESRGANDegradation(DegradationOptions.model_validate({}), 4)
    rng = torch.Generator().manual_seed(0)
    for count in (1, 4, 16):
        pictures = torch.rand(count, 3, size.pixels, size.pixels, device=size.device)
        size.tell(f"batch {count}", lambda p=pictures: degrade(p, rng), per=count)


PARTS = {
    "inference": inference, "step": step, "rewards": rewards, "stage1": stage1,
    "degradation": degradation,
}  # fmt: skip


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
