"""Time and memory of one update of stage 2 against a plain restatement of the released step.

python -m benchmarks.stage2_step                                  # embedded base, 256 px
python -m benchmarks.stage2_step --base sd:0.125 --size 256       # SD's layers, 1/8 as wide
python -m benchmarks.stage2_step --base sd:1 --size 512 --device cuda --precision bf16 \
    --rewards psnr_y musiq maniqa --random_metrics

From the repository's root. `--also KEY=VALUE,KEY=VALUE` adds a row with options of its own, such as
train:reuse_latents=true. Losses of the first update are compared before anything is timed; then the
variants take turns. CPU time is the process's on a CPU, which other jobs disturb less, wall time on
a GPU. Memory is measured in a process of its own for each variant: "kept" is what autograd holds
for the backward pass, "peak" on a GPU all that is allocated, on a CPU resident memory beyond the
imports.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.stage2_variants import (
    Memory,
    NaiveStep,
    build_trainer,
    make_base,
    make_batch,
    own_step,
    random_metric_networks,
    resident,
    scratch,
)

NAIVE, OWN = "naive", "ours"
SMALL = "train:update_chunk=1,train:group_chunk=1"
HEAD = (
    "variant", "first loss", "median ms", "fastest", "slowest", "times as fast", "kept MiB",
    "of naive", "peak MiB", "of naive",
)  # fmt: skip
TOLERANCE = {"no": 5e-4, "bf16": 5e-3, "fp16": 5e-3}
"""Of the first loss, whose logit is 25 times a difference of two means."""


def main() -> None:
    """Print the table."""
    args = _parser().parse_args()
    torch.set_num_threads(args.threads)
    if args.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    with scratch() as folder:
        args.base = make_base(args.base, folder, args.device)
        if args.child is not None:
            print(json.dumps(measure_memory(args, args.child, folder)))
            return
        variants = [NAIVE, OWN, *(f"{OWN}, {also}" for also in (SMALL, *args.also))]
        memory = {name: in_fresh_process(args, name) for name in variants}
        losses, times = measure_time(args, variants, folder)
    print(f"\n{machine(args)}, G = {args.group}, {args.repeats} repeats\n")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for name in variants:
        print(row(name, losses[name], times, memory))


def build(args: argparse.Namespace, name: str, folder: Path) -> tuple[Callable[[], float], list]:
    """The step of a variant, and its networks."""
    own = name.partition(", ")[2]
    overrides = [
        f"train:group_size={args.group}",
        f"train:mixed_precision={args.precision}",
        *rewards(args),
        *(own.split(",") if own else []),
    ]
    model = build_trainer(args.base, folder, overrides)
    batch = make_batch(args.size, model.generator.prompt, str(model.accelerator.device))
    if name != NAIVE:
        return own_step(model, batch), [model.generator]
    naive = NaiveStep(model, args.base)
    model.generator.to("meta")
    return lambda: naive(batch), [naive.policy, naive.reference, naive.text_encoder]


def rewards(args: argparse.Namespace) -> list[str]:
    """Options of the rewards; psnr_y compares, the others do not."""
    fixed = "pretrained: false" if args.random_metrics else ""
    others = [f"{m}: {{metric: {m}, options: {{{fixed}}}}}" for m in args.rewards if m != "psnr_y"]
    fidelity = "{psnr_y: {metric: psnr_y}}" if "psnr_y" in args.rewards else "{}"
    return [
        f"train:reward:fidelity={fidelity}",
        f"train:reward:perception={{{', '.join(others)}}}",
    ]


def in_fresh_process(args: argparse.Namespace, name: str) -> dict[str, float]:
    """What `measure_memory` gives, in a process that did nothing else."""
    command = [sys.executable, "-m", "benchmarks.stage2_step", "--child", name]
    for key in ("base", "size", "group", "precision", "threads", "device"):
        command += [f"--{key}", str(getattr(args, key))]
    command += ["--rewards", *args.rewards] + ["--random_metrics"] * args.random_metrics
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_memory(args: argparse.Namespace, name: str, folder: Path) -> dict[str, float]:
    """Bytes kept for the backward pass of a second step, the peak, milliseconds of a third step."""
    before = resident()
    with random_metric_networks():
        step, networks = build(args, name, folder)
    step()
    memory = Memory(networks)
    with memory.watch():
        step()
    peak = memory.peak - (0 if args.device == "cuda" else before)
    return {"kept": memory.kept, "peak": peak, "ms": milliseconds(step, args.device)}


def measure_time(
    args: argparse.Namespace, variants: list[str], folder: Path
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """First losses, which must agree, and milliseconds of the steps after them."""
    with random_metric_networks():
        steps = {name: build(args, name, folder)[0] for name in variants}
    losses = {name: step() for name, step in steps.items()}
    exact = [n for n in variants if "reuse_latents" not in n]
    apart = max(losses[n] for n in exact) - min(losses[n] for n in exact)
    if not apart < TOLERANCE[args.precision]:
        raise SystemExit(f"first losses differ, times would compare nothing: {losses}")
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(args.repeats):
        for name, step in steps.items():
            times[name].append(milliseconds(step, args.device))
    return losses, times


def milliseconds(step: Callable[[], float], device: str) -> float:
    """Time of one step, which ends by reading its loss."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (clock() - start)


def row(
    name: str, loss: float, times: dict[str, list[float]], memory: dict[str, dict[str, float]]
) -> str:
    """One line of the table."""
    median = statistics.median(times[name])
    cells = [
        name,
        f"{loss:.4f}",
        *(f"{value:.0f}" for value in (median, min(times[name]), max(times[name]))),
        f"{statistics.median(times[NAIVE]) / median:.2f}",
    ]
    for kind in ("kept", "peak"):
        cells += [f"{memory[name][kind] / 2**20:.0f}"]
        cells += [f"{memory[name][kind] / memory[NAIVE][kind]:.2f}"]
    return f"| {' | '.join(cells)} |"


def machine(args: argparse.Namespace) -> str:
    """What was run, and on what."""
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} CPU thread"
    return (
        f"{Path(args.base).name}, {args.size} px, precision {args.precision}, "
        f"rewards {' '.join(args.rewards)}, {where}, "
        f"torch {torch.__version__}"
    )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options of what is measured."""
    parser.add_argument("--base", default="mini", help="mini, sd:WIDTH or a folder (mini)")
    parser.add_argument("--size", type=int, default=256, help="of the HR picture, pixels (256)")
    parser.add_argument("--precision", default="no", choices=list(TOLERANCE))
    parser.add_argument("--rewards", nargs="+", default=["psnr_y"], help="metrics (psnr_y)")
    parser.add_argument("--random_metrics", action="store_true", help="networks without weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument("--group", type=int, default=6, help="G (6)")
    parser.add_argument("--also", nargs="*", default=[], metavar="KEY=VALUE,...", help="more rows")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
