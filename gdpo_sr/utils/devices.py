"""The device that a user names, and the one where none is named."""

from __future__ import annotations

import torch

from gdpo_sr.types import OptionError


def best_device() -> torch.device:
    """A GPU where there is one, else the CPU."""
    for kind, module in (("cuda", torch.cuda), ("xpu", torch.xpu), ("mps", torch.backends.mps)):
        if module.is_available():
            return torch.device(kind)
    return torch.device("cpu")


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
