"""What the host does in a pass of Stable Diffusion 2.1's UNet and in a whole stage-2 step.

    python -m benchmarks.host_overhead          # passes and the adapter switch
    python -m benchmarks.host_overhead --step   # a whole step, against the naive one

The UNet has all modules of the real one at 1/32 of its width, on latents of 8x8, and oneDNN is off:
next to no arithmetic is left, and what is measured is what a GPU would wait for. "Operations" are
ATen's, as torch dispatches them below autograd, views among them; milliseconds are CPU time on one
thread, the least of several runs in turns. "naive" is PEFT's own forward pass under autocast on
float32 weights, and diffusers' switch, which walks all modules.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.sd_layout import TOKENS, unet_config
from benchmarks.stage2_variants import (
    NaiveStep,
    back_to_peft,
    build_trainer,
    make_base,
    make_batch,
    own_step,
    scratch,
)
from benchmarks.turns import in_turns, machine
from gdpo_sr.checkpoints.lora import adapters_disabled, add_lora, merge_lora
from gdpo_sr.trainer.build_data import cast_frozen

WIDTH = 1 / 32
STEP_OPTIONS = [
    "train:mixed_precision=bf16",
    "train:group_size=6",
    "train:reward:fidelity={psnr_y: {metric: psnr_y}}",
    "train:reward:perception={}",
]
Runs = dict[str, Callable[[], Any]]
"""What is timed, by name; the first is the naive one."""


class Operations(TorchDispatchMode):
    """Counts what is dispatched inside."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class Pass:
    """A pass of a UNet: precision, adapters, gradient."""

    def __init__(self, lora: str, precision: str, backward: bool = False, lean: bool = True):
        torch.manual_seed(0)
        self.unet = UNet2DConditionModel(**unet_config(WIDTH)).requires_grad_(False)
        self.lora, self.precision, self.backward = lora, precision, backward
        if precision == "bf16":
            self.unet.to(torch.bfloat16)
        if lora != "none":
            add_lora(self.unet)
        if not lean:
            back_to_peft(self.unet)
        if lora == "merged":
            merge_lora(self.unet)
        if precision == "cast once":
            cast_frozen([self.unet], "bf16")
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        width = self.unet.config.cross_attention_dim
        self.latents = torch.zeros(1, 4, 8, 8, dtype=dtype)
        self.embeds = torch.zeros(1, TOKENS, width, dtype=dtype)

    def __call__(self) -> None:
        off = adapters_disabled(self.unet) if self.lora == "off" else nullcontext()
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=self.precision != "bf16")
        with off, autocast, torch.set_grad_enabled(self.backward):
            answer = self.unet(self.latents, 100, encoder_hidden_states=self.embeds).sample
        if self.backward:
            answer.float().square().mean().backward()


def passes() -> dict[str, Runs]:
    """What is timed, by subject."""
    naive, ours = Pass("on", "autocast", lean=False), Pass("on", "cast once")
    forward = {
        "naive": naive,
        "LoRA on": ours,
        "LoRA off": Pass("off", "cast once"),
        "LoRA merged": Pass("merged", "cast once"),
        "no LoRA, bf16 without autocast": Pass("none", "bf16"),
    }
    both = {
        "naive": Pass("on", "autocast", True, lean=False),
        "LoRA on": Pass("on", "cast once", True),
    }
    switches = {"naive": walking_switch(naive.unet), "ours": switch(ours.unet)}
    return {
        "forward pass": forward,
        "forward and backward pass": both,
        "adapters off and on": switches,
    }


def walking_switch(unet: Any) -> Callable[[], None]:
    """Diffusers' switch."""

    def run() -> None:
        unet.disable_adapters()
        unet.enable_adapters()

    return run


def switch(unet: nn.Module) -> Callable[[], None]:
    """The package's switch."""

    def run() -> None:
        with adapters_disabled(unet):
            pass

    return run


def operations(run: Callable[[], Any]) -> int:
    """How many a run dispatches."""
    with Operations() as found:
        run()
    return found.count


def rows(subject: str, found: Runs, runs: int) -> str:
    """Lines of the table."""
    counts = {name: operations(run) for name, run in found.items()}
    times = {name: 1e3 * t.fastest for name, t in in_turns(found, runs).items()}
    first = next(iter(times.values()))
    return "\n".join(
        f"| {subject} | {name} | {counts[name]} | {ms:.2f} | {first / ms:.2f} |"
        for name, ms in times.items()
    )


def print_step(runs: int) -> None:
    """A whole step of the trainer and the naive one."""
    with scratch() as folder:
        base = make_base(f"sd:{WIDTH}", folder, "cpu")
        model = build_trainer(base, folder, STEP_OPTIONS)
        batch = make_batch(64, model.generator.prompt, "cpu")
        naive = NaiveStep(model, base)
        found = {"naive": lambda: naive(batch), "ours": own_step(model, batch)}
        print(rows("stage-2 step, G = 6, PSNR", found, runs), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--step", action="store_true", help="a whole stage-2 step instead (G = 6)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False
    print(machine("torch", "peft", "diffusers"))
    print("\n| | | operations | fastest ms | times as fast |\n|---|---|---|---|---|", flush=True)
    if args.step:
        print_step(max(args.runs // 4, 1))
        return
    for subject, found in passes().items():
        print(rows(subject, found, args.runs), flush=True)


if __name__ == "__main__":
    main()
