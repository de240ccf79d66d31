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
from accelerate.utils import InitProcessGroupKwargs

from gdpo_sr.trainer.sharding import spreads_weights
from gdpo_sr.trainer.spread_optimizer import spreads_states
from gdpo_sr.types import ProcessError

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


def _is_connection_error(error: RuntimeError) -> bool:
    """gloo raises plain RuntimeErrors that name its source files."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
