"""Latency and peak memory of inference against a plain fp32 pipeline, as a Markdown table.

python -m benchmarks.inference_latency                                  # the embedded base
python -m benchmarks.inference_latency --base sd:0.125 --size 256       # SD 2.1's layers, 1/8 wide
python -m benchmarks.inference_latency --base sd:1 --device cuda --variants fp32 bf16 bf16-compiled

The plain pipeline is our own restatement of how such models are usually run: diffusers parts in
fp32, eager, the text encoder called for each picture. Ours computes the embedding once and drops
the text encoder. All restore the same picture with the same noise; results are compared with the
plain ones first, and the command fails if they differ by more than half precision can. Then they
are called in turns; on a CPU the clock is CPU time, on a GPU wall time around synchronisation.
Memory is the peak of a fresh process for each: of the GPU, or resident on a CPU.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.sd_layout import build_sd_layout
from benchmarks.turns import Times, in_turns, machine
from gdpo_sr.generators.base_folder import base_folder
from gdpo_sr.generators.load import load_components
from gdpo_sr.generators.load_part import load_text_encoder
from gdpo_sr.pipelines.noise_field import NoiseField, draw_seed
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.utils.color_fix import wavelet_color_fix

PLAIN = "plain"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
VARIANTS = tuple(f"{name}{suffix}" for suffix in ("", "-compiled") for name in PRECISIONS)
TOLERANCES = {"fp32": 1e-3, "bf16": 0.03, "fp16": 0.01}  # mean difference on the scale [0, 1]
SCALE, SEED = 4, 0
Run = Callable[[], torch.Tensor]


class PlainPipeline:
    """Text encoder, VAE encoder, noise, UNet, VAE decoder and colour fix, one after the other."""

    def __init__(self, base: str, device: str) -> None:
        parts = load_components(base)
        self.unet, self.vae, self.text = (
            parts[name].to(device).eval() for name in ("unet", "vae", "text_encoder")
        )
        self.tokenizer, self.scheduler = parts["tokenizer"], parts["scheduler"]
        self.prompt, self.device = parts["prompt"], device

    @torch.no_grad()
    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, 4 h, 4 w) of one picture (1, 3, h, w), both in [0, 1]."""
        tokens = self.tokenizer([self.prompt], padding="max_length", return_tensors="pt")
        embeds = self.text(tokens.input_ids.to(self.device))[0]
        large = F.interpolate(image.to(self.device), scale_factor=SCALE, mode="bicubic").clamp(0, 1)
        factor = self.vae.config.scaling_factor
        latents = self.vae.encode(large * 2 - 1).latent_dist.mean * factor
        noisy = self.scheduler.add_noise(latents, noise_like(latents))
        t_diff = self.scheduler.config.t_diff
        prediction = self.unet(noisy, t_diff, encoder_hidden_states=embeds).sample
        restored = self.scheduler.predict_x0(noisy, self.scheduler.to_epsilon(noisy, prediction))
        output = self.vae.decode(restored / factor).sample.clamp(-1, 1) / 2 + 0.5
        return wavelet_color_fix(output, large).clamp(0, 1)


def noise_like(latents: torch.Tensor) -> torch.Tensor:
    """The noise that `OneStepSRPipeline` gives to the only picture of a call."""
    _, channels, height, width = latents.shape
    seed = draw_seed(torch.Generator().manual_seed(SEED))
    return NoiseField(seed, channels).window(0, height, 0, width)[None].to(latents)


def our_pipeline(base: str, variant: str, device: str) -> OneStepSRPipeline:
    """As `inference.py --precision ... [--compile]` builds it."""
    precision, _, compiled = variant.partition("-")
    dtype = PRECISIONS[precision]
    pipe = OneStepSRPipeline.from_pretrained(base, torch_dtype=dtype).to(device)
    pipe.set_progress_bar_config(disable=True)
    text_encoder = partial(load_text_encoder, base_folder(base), dtype)
    pipe.release_text_encoder([pipe.config.prompt], text_encoder)
    if compiled:
        pipe.compile()
    return pipe


def build(name: str, args: argparse.Namespace, base: str) -> Run:
    """One pipeline as a function that restores the picture."""
    rng = torch.Generator().manual_seed(1)
    small = torch.rand(1, 3, args.size // SCALE // 8, args.size // SCALE // 8, generator=rng)
    image = F.interpolate(small, scale_factor=8, mode="bicubic").clamp(0, 1)
    if name == PLAIN:
        plain = PlainPipeline(base, args.device)
        return lambda: plain(image)
    pipe = our_pipeline(base, name, args.device)

    def restore() -> torch.Tensor:
        rng = torch.Generator().manual_seed(SEED)
        return pipe(image[0], scale=SCALE, generator=rng, tile=0, output_type="pt").images

    return restore


def check(runs: dict[str, Run]) -> dict[str, float]:
    """Mean difference of each result from the plain one; a large one ends the command."""
    expected = runs[PLAIN]().cpu()
    differences = {}
    for name, run in runs.items():
        result = run().cpu()
        differences[name] = (result - expected).abs().mean().item()
        limit = TOLERANCES[name.partition("-")[0]] if name != PLAIN else 0.0
        if not differences[name] <= limit:
            raise SystemExit(f"{name} differs from plain by {differences[name]:.4f} > {limit}")
    return differences


def timed(runs: dict[str, Run], args: argparse.Namespace) -> dict[str, Times]:
    """Seconds of each; on a GPU a run ends when the device does."""
    if args.device == "cpu":
        return in_turns(runs, args.runs)

    def until_done(run: Run) -> None:
        run()
        torch.cuda.synchronize()

    waiting = {name: partial(until_done, run) for name, run in runs.items()}
    return in_turns(waiting, args.runs, time.perf_counter)


def peak_bytes(name: str, args: argparse.Namespace, base: str) -> int:
    """Peak memory of a fresh process that restores the picture twice."""
    command = [sys.executable, "-m", "benchmarks.inference_latency", "--child", name]
    command += ["--base", base, "--size", str(args.size), "--device", args.device]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def own_peak(args: argparse.Namespace) -> int:
    """What `peak_bytes` asks for, in the fresh process."""
    run = build(args.child, args, args.base)
    for _ in range(2):
        run()
    if args.device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return torch.cuda.max_memory_allocated()


def table(times: dict[str, Times], peaks: dict[str, int], differences: dict[str, float]) -> str:
    """Markdown table; ratios are to the first row."""
    base_time, base_peak = times[PLAIN].median, peaks[PLAIN]
    lines = [
        "| | median ms | p90 ms | times as fast | peak MiB | of plain | mean difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (median, p90, _) in times.items():
        speed = f"{1e3 * median:.1f} | {1e3 * p90:.1f} | {base_time / median:.2f}"
        memory = f"{peaks[name] / 2**20:.0f} | {peaks[name] / base_peak:.2f}"
        lines.append(f"| {name} | {speed} | {memory} | {differences[name]:.5f} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    args = _parser().parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        print(own_peak(args))
        return
    with tempfile.TemporaryDirectory() as folder:
        base = args.base
        if base.startswith("sd:"):
            base = str(build_sd_layout(Path(folder), float(base[3:]), device=args.device))
        runs = {name: build(name, args, base) for name in (PLAIN, *args.variants)}
        differences = check(runs)
        times = timed(runs, args)
        runs.clear()
        peaks = {name: peak_bytes(name, args, base) for name in times}
    print(f"{machine('torch', 'diffusers')}\n\n{table(times, peaks, differences)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="mini", help="mini, sd:WIDTH or a folder (mini)")
    parser.add_argument("--size", type=int, default=512, help="side of the output, pixels (512)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["fp32", "bf16"])
    parser.add_argument("--runs", type=int, default=10, help="timed calls of each (10)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (1)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
