"""Whether an update of an options file fits into memory, counted from shapes."""

from __future__ import annotations

import json
from pathlib import Path

from gdpo_sr.checkup.finding import Finding, gib
from gdpo_sr.checkup.machine import device_memory
from gdpo_sr.config.schema import GDPOOptions, Options
from gdpo_sr.generators.base_folder import configs_of, part_folder
from gdpo_sr.trainer.memory_count import (
    Measured,
    Networks,
    sampling,
    stage1_update,
    stage2_update,
)

SHARE = 0.9  # of the memory that counts as free: the rest is for libraries and metrics


def networks_of(options: Options, base: Path) -> Networks:
    """What a run on the base in `base` is made of."""
    o, configs = options, configs_of(base)
    folders = {
        part: part_folder(own, part) if own else configs / part
        for part, own in (("unet", o.network_g.unet), ("vae", o.network_g.vae))
    }
    return Networks(
        *(json.loads((folder / "config.json").read_bytes()) for folder in folders.values()),
        o.datasets.train.gt_size,
        o.train.lora.rank,
        o.train.gradient_checkpointing,
        o.train.mixed_precision,
    )


def count(options: Options, base: Path) -> dict[str, Measured]:
    """Bytes of the passes of one update, by name."""
    networks, batch = networks_of(options, base), options.datasets.train.batch_size
    if not isinstance(options, GDPOOptions):
        return {
            "generator": stage1_update(networks, batch),
            "fake score": stage2_update(networks, batch),
        }
    train = options.train
    group = batch * train.group_size
    return {
        "sampling": sampling(networks, train.group_chunk or group),
        "update": stage2_update(networks, train.update_chunk or group),
    }


def needed(measured: dict[str, Measured]) -> int:
    """Bytes of the largest pass with the optimizer's moments."""
    return max(m.peak + m.optimizer for m in measured.values())


def memory(measured: dict[str, Measured]) -> Finding:
    """Against the device's memory."""
    need, there = needed(measured), device_memory()
    by_pass = ", ".join(f"{name} {gib(m.peak)}" for name, m in measured.items())
    text = f"an update needs {gib(need)} counted ({by_pass}), metrics' networks on top"
    if there is None:
        return Finding("memory", "note", f"{text}; what there is is not known")
    if need > SHARE * there:
        remedy = (
            "train.group_chunk: 1, train.update_chunk: 1, gradient_checkpointing, or a smaller "
            "gt_size"
        )
        return Finding("memory", "bad", f"{text}, of {gib(there)}: use {remedy}")
    return Finding("memory", "ok", f"{text}, of {gib(there)}")


def checkpoint_bytes(options: Options, measured: dict[str, Measured]) -> int:
    """Of two checkpoints, as the trainer reckons."""
    copies = 4 if options.train.ema_decay else 3
    trained = sum(m.trained for name, m in measured.items() if name != "sampling")
    return 2 * (copies + 2) * trained
