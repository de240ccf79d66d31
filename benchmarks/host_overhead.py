"""What the host does in a pass of Stable Diffusion 2.1's UNet and in a whole stage-2 step.

    python -m benchmarks.host_overhead

The UNet has all modules of the real one at 1/32 of its width, on latents of 8x8: next to no
arithmetic is left, and what is measured is what a GPU would wait for. Milliseconds of CPU time on
one thread, median and 90th percentile. "peft" is PEFT's own forward pass of the same adapters.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from benchmarks.sd_layout import TOKENS, unet_config
from benchmarks.stage2_variants import build_trainer, make_base, make_batch, own_step, scratch
from benchmarks.turns import Times, in_turns, machine
from gdpo_sr.checkpoints.lora import adapter_layers, adapters_disabled, add_lora, merge_lora
from gdpo_sr.trainer.build_data import cast_frozen

WIDTH = 1 / 32
STEP = "whole step, bf16, G = 6, PSNR"
STEP_OPTIONS = [
    "train:mixed_precision=bf16",
    "train:group_size=6",
    "train:reward:fidelity={psnr_y: {metric: psnr_y}}",
    "train:reward:perception={}",
]


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
            _back_to_peft(self.unet)
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


def _back_to_peft(unet: nn.Module) -> None:
    for layer in adapter_layers(unet):
        layer.__class__ = type(layer).__mro__[2]


def switch(unet: nn.Module) -> Callable[[], None]:
    """Adapters off and on again."""

    def run() -> None:
        with adapters_disabled(unet):
            pass

    return run


def passes() -> dict[str, Callable[[], None]]:
    """What is timed, by name."""
    found: dict[str, Callable[[], None]] = {
        "bf16, no LoRA": Pass("none", "bf16"),
        "autocast, no LoRA": Pass("none", "autocast"),
        "autocast, LoRA merged": Pass("merged", "autocast"),
        "autocast, frozen cast once, LoRA merged": Pass("merged", "cast once"),
        "autocast, frozen cast once, LoRA off": Pass("off", "cast once"),
        "autocast, frozen cast once, LoRA on": Pass("on", "cast once"),
        "autocast, frozen cast once, LoRA on, backward too": Pass("on", "cast once", True),
        "autocast, LoRA off": Pass("off", "autocast"),
        "autocast, LoRA on": Pass("on", "autocast"),
        "autocast, LoRA on, peft": Pass("on", "autocast", lean=False),
        "autocast, LoRA on, backward too": Pass("on", "autocast", backward=True),
        "autocast, LoRA on, backward too, peft": Pass("on", "autocast", True, lean=False),
    }
    found["adapter switch"] = switch(found["autocast, LoRA on"].unet)
    return found


def table(times: dict[str, Times]) -> str:
    """Markdown."""
    rows = [f"| {n} | {1e3 * t.median:.1f} | {1e3 * t.p90:.1f} |" for n, t in times.items()]
    return "\n".join(["| | median ms | p90 ms |", "|---|---|---|", *rows])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--step", action="store_true", help="a whole stage-2 step too (G = 6)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine("torch", "peft", "diffusers"))
    print(f"\n{table(in_turns(passes(), args.runs))}", flush=True)
    if args.step:
        with scratch() as folder:
            base = make_base(f"sd:{WIDTH}", folder, "cpu")
            model = build_trainer(base, folder, STEP_OPTIONS)
            batch = make_batch(64, model.generator.prompt, "cpu")
            print(f"\n{table(in_turns({STEP: own_step(model, batch)}, max(args.runs // 2, 1)))}")


if __name__ == "__main__":
    main()
