"""Memory of one training update at the size of Stable Diffusion 2.1, without a GPU or weights.

    python -m benchmarks.sd21_memory

Counted by `gdpo_sr.trainer.memory_count` on networks with the configs of `sd_layout.py`; what is
counted is said there. Precision is bf16 by autocast over float32 weights, as in the options files;
a GPU that shows less has fused what is two tensors here. Printed is Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.sd_layout import unet_config, vae_config
from gdpo_sr.trainer.memory_count import Measured, Networks, stage1_update, stage2_update

GIB = 2**30
PIXELS = 512
HEAD = (
    "| update | at once | checkpointing | weights | trained | AdamW | activations | peak |\n"
    "|---|---|---|---|---|---|---|---|"
)
Count = Callable[[Networks, int], Measured]
ROWS: tuple[tuple[str, Count, int, str], ...] = (
    ("stage 2", stage2_update, 1, "candidate"),
    ("stage 2", stage2_update, 6, "candidates"),
    ("stage 1, generator", stage1_update, 1, "picture"),
    ("stage 1, generator", stage1_update, 2, "pictures"),
    ("stage 1, fake score", stage2_update, 2, "pictures"),
)


def row(measured: Measured, name: str, batch: str, checkpointing: bool) -> str:
    """One line of the table, in GiB."""
    m = measured
    parts = (m.weights, m.trained, m.optimizer, m.activations, m.peak + m.optimizer)
    figures = [f"{size / GIB:.2f}" for size in parts]
    return "| " + " | ".join([name, batch, "yes" if checkpointing else "no", *figures]) + " |"


def networks(checkpointing: bool, width: float = 1.0, pixels: int = PIXELS) -> Networks:
    """Of Stable Diffusion 2.1, or of a part of its width."""
    unet = {"_class_name": "UNet2DConditionModel", **unet_config(width)}
    vae = {"_class_name": "AutoencoderKL", **vae_config(width)}
    return Networks(unet, vae, pixels, checkpointing=checkpointing)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(HEAD, flush=True)
    for name, count, at_once, unit in ROWS:
        for checkpointing in (False, True):
            measured = count(networks(checkpointing), at_once)
            print(row(measured, name, f"{at_once} {unit}", checkpointing), flush=True)


if __name__ == "__main__":
    main()
