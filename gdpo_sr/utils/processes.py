"""This process among those that a launcher started, without accelerate where there is one alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from gdpo_sr.utils.devices import best_device

_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Set by torchrun, accelerate launch and MPI."""
_LONGEST_WAIT = timedelta(days=7)  # of a process for the others, which may have more to do


@dataclass(frozen=True)
class Alone:
    """The only process, with the interface of accelerate's PartialState."""

    device: torch.device
    process_index = 0
    num_processes = 1
    is_main_process = True

    def wait_for_everyone(self) -> None:
        """There is nobody else."""


def this_process(cpu: bool = False) -> Any:
    """`Alone`, or accelerate's PartialState where a launcher started several or chose the device.

    Args:
        cpu: keep to the CPU.
    """
    several = any(os.environ.get(name, "1") != "1" for name in _COUNTS)
    if not several and "ACCELERATE_USE_CPU" not in os.environ:
        return Alone(torch.device("cpu") if cpu else best_device())
    from accelerate import PartialState

    return PartialState(cpu=cpu, timeout=_LONGEST_WAIT)


def gather(process: Any, values: list[Any]) -> list[Any]:
    """The values of all processes."""
    if isinstance(process, Alone):
        return values
    from accelerate.utils import gather_object

    return gather_object(values)
