"""Train several runs, one after the other, in every process that torchrun starts.

ACCELERATE_USE_CPU=true torchrun --standalone --nproc_per_node 2 tests/two_processes.py FOLDER RUNS

RUNS is a JSON file: {run: [options file, [KEY=VALUE, ...]]}. Every process writes its weights,
FOLDER/<run>_rank<r>.pt, and fails if it is not the main one and writes or moves any other file in
FOLDER. Runs called sharded_... get the state that accelerate has after `--use_fsdp`, which it
ignores on a CPU; they come last.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from gdpo_sr import train
from gdpo_sr.config.load import load_options

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def only_main_may_write(folder: Path) -> None:
    """An audit hook for processes other than the main one."""

    def hook(event: str, values: tuple) -> None:
        changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
        opens = event == "open" and isinstance(values[2], int) and values[2] & WRITING
        if (changes or opens) and str(folder) in str(values[0]) and "_rank" not in str(values[0]):
            raise PermissionError(f"process {os.environ['RANK']}: {event} {values[0]}")

    if os.environ.get("RANK", "0") != "0":
        sys.addaudithook(hook)


def pretend_fsdp(accelerator: Accelerator) -> Accelerator:
    """The state of an accelerator that `accelerate launch --use_fsdp` configured."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def main(folder: Path, plan: Path) -> None:
    torch.set_num_threads(1)
    only_main_may_write(folder)
    build = train.build_accelerator
    for name, (file, overrides) in json.loads(plan.read_text()).items():
        if name.startswith("sharded"):
            train.build_accelerator = lambda options: pretend_fsdp(build(options))
        options = load_options(file, overrides)
        model = train.train(options, False, train.build_accelerator(options))
        assert model.finished
        weights = model.all_trained
        values = {key: p.detach().cpu().clone() for key, p in weights.items()}
        torch.save(values, folder / f"{name}_rank{model.rank}.pt")
    model.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
