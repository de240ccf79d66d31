"""The device that a user names."""

from __future__ import annotations

import torch

from gdpo_sr.types import OptionError


def checked_device(name: str) -> torch.device:
    """The device called `name`, such as ``cpu`` or ``cuda:1``.

    Raises:
        OptionError: no such kind of device, or none of it on this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        counts = {"cpu": 1, "cuda": torch.cuda.device_count()}
        counts["mps"] = int(torch.backends.mps.is_available())
        there = ", ".join(f"{kind} ({count})" for kind, count in counts.items() if count)
        raise OptionError(f"--device {name}: not on this machine; it has {there}") from error
    return device
