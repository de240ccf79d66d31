"""What the processes of one run do together: start, agree after every update, end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, is_torch_version
from torch import nn

from gdpo_sr.generators.families import network_family
from gdpo_sr.pipelines.memory_limits import is_shortage
from gdpo_sr.trainer.spread_optimizer import spreads_states
from gdpo_sr.types import GDPOSRError, OptionError, ProcessError

PATIENCE = timedelta(hours=3)
"""How long processes wait for one another: a validation is the main process's alone. One that dies
is noticed at once by the launcher, or where its connections end.
"""


def process_options() -> list[InitProcessGroupKwargs]:
    """Accelerator's handlers of the process group."""
    return [InitProcessGroupKwargs(timeout=PATIENCE)]


def log_processes(accelerator: Accelerator, logger: logging.Logger) -> None:
    """Say how many processes train, and on what; warn if a launcher prepared more than it started.

    `accelerate launch --cpu --num_processes 2` sets MASTER_ADDR for two and starts one.
    """
    count = accelerator.num_processes
    logger.info("processes: %d on %s", count, accelerator.device.type)
    if spreads_weights(accelerator):
        logger.info("frozen weights of the UNet are spread over %d processes", count)
    if spreads_states(accelerator):
        logger.info("gradients and optimizer states are spread over %d processes", count)
    if count == 1 and "MASTER_ADDR" in os.environ and "RANK" not in os.environ:
        logger.warning(
            "one process only, though the launcher was asked for several: on CPUs start them with "
            "ACCELERATE_USE_CPU=true torchrun --standalone --nproc_per_node N train.py ..."
        )


def agree(
    figures: dict[str, float], stop: bool, accelerator: Accelerator
) -> tuple[dict[str, float], bool]:
    """Mean figures over processes (those that are not NaN), and whether any process is to stop.

    Signals do not reach all processes within the same update; here all learn of them at once.
    """
    if accelerator.num_processes == 1:
        return figures, stop
    own = torch.tensor([[float(stop), *figures.values()]], device=accelerator.device)
    stops, *means = accelerator.gather(own).nanmean(0).tolist()
    return dict(zip(figures, means, strict=True)), stops > 0


@contextmanager
def without_the_lost(accelerator: Accelerator) -> Iterator[None]:
    """Inside, a broken connection to another process becomes a ProcessError."""
    try:
        yield
    except RuntimeError as error:
        if accelerator.num_processes == 1 or not _is_connection_error(error):
            raise
        raise ProcessError(
            f"process {accelerator.process_index} of {accelerator.num_processes} lost another one, "
            "which ended or does not answer: see the messages above; the same command with "
            "--auto_resume goes on from the newest checkpoint"
        ) from error


@contextmanager
def without_exits() -> Iterator[None]:
    """Inside, `sys.exit` of whatever code becomes a GDPOSRError: the run is no success."""
    try:
        yield
    except SystemExit as error:
        raise GDPOSRError(
            f"a reward, a metric or its library ended the program (sys.exit({error.code!r:.100})): "
            "mend it, then go on with --auto_resume"
        ) from error


@contextmanager
def without_shortage() -> Iterator[None]:
    """Inside, memory that runs out, of a GPU or of the machine, becomes a GDPOSRError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        raise GDPOSRError(
            f"memory ran out ({' '.join(str(error).split())[:120] or 'of the machine'}): set "
            "train.gradient_checkpointing: true, or halve datasets.train.batch_size and double "
            "train.accumulation, then go on with --auto_resume"
        ) from error


def _is_connection_error(error: RuntimeError) -> bool:
    """gloo raises plain RuntimeErrors that name its source files."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


# FSDP for a LoRA: frozen weights are spread, what is trained stays whole -------------------------

NEEDED = "2.7"
"""Version of torch whose `fully_shard` leaves parameters alone that it is told to ignore."""


def spreads_weights(accelerator: Accelerator) -> bool:
    """Whether the accelerate configuration asks for FSDP.

    Then a forward pass of the UNet is a matter of all processes at once. The plugin tells: what
    accelerate gives as the type of distribution changes once an optimizer is prepared.
    """
    return getattr(accelerator.state, "fsdp_plugin", None) is not None


def check_spread(accelerator: Accelerator, channels_last: bool, compiled: bool) -> None:
    """Raise OptionError for options that weights in pieces do not allow, and for an older torch.

    With `cpu_ram_efficient_loading` transformers leaves weights of all processes but one empty.
    """
    if is_torch_version("<", NEEDED):
        raise OptionError(
            f"FSDP here needs torch {NEEDED} or newer, this is {torch.__version__}: update torch, "
            "or take options/accelerate/ddp.yaml"
        )
    efficient = accelerator.state.fsdp_plugin.cpu_ram_efficient_loading
    options = {"train.channels_last": channels_last, "train.compile": compiled}
    for name, used in {**options, "fsdp_cpu_ram_efficient_loading": efficient}.items():
        if used:
            raise OptionError(
                f"{name}: true cannot be used with FSDP here: set it to false, or take "
                "options/accelerate/ddp.yaml"
            )


def shard_frozen(unet: nn.Module, accelerator: Accelerator) -> None:
    """Keep 1 / W of the UNet's frozen weights in each of W processes (torch's FSDP2, in place).

    A block's weights are gathered where it is used. Adapters are small and left alone, so that
    optimizer, checkpoints and the switching of adapters need not know.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    adapters = {p for name, p in unet.named_parameters() if ".lora_" in name}
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in network_family(unet).blocks(unet):
        fully_shard(block, mesh=mesh, ignored_params=adapters)
    fully_shard(unet, mesh=mesh, ignored_params=adapters)


def check_plain_processes(accelerator: Accelerator, stage: str) -> None:
    """Raise OptionError where accelerate would spread parameters in a way that `stage` does not
    know.
    """
    kind = "FSDP" if spreads_weights(accelerator) else accelerator.distributed_type.value
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise OptionError(
            f"{stage} cannot use {kind}: take options/accelerate/ddp.yaml; what it trains is "
            "small, so there is little to spread (docs/processes.md)"
        )
