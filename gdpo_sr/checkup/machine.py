"""Python, libraries, device, disk."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from gdpo_sr.checkup.finding import Finding, gib
from gdpo_sr.config.schema import Options

_LIBRARIES = ("torch", "diffusers", "peft", "transformers", "accelerate", "pyiqa")


def software() -> Finding:
    """Versions."""
    found = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            return Finding("software", "bad", f"{name} is not installed: pip install {name}")
    return Finding("software", "ok", f"Python {platform.python_version()}, {', '.join(found)}")


def device_memory() -> int | None:
    """Bytes of the GPU that a run uses, or of main memory; None where it is not known."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def device(options: Options | None) -> Iterator[Finding]:
    """Where a run computes, and whether it has the wanted precision there."""
    memory = device_memory()
    size = "" if memory is None else f", {gib(memory)}"
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        more = f" ({count} of them)" if count > 1 else ""
        yield Finding("device", "ok", f"{torch.cuda.get_device_name(0)}{more}{size}")
    else:
        yield Finding("device", "ok", f"CPU, {os.cpu_count()} cores{size}, no CUDA")
    wanted = "no" if options is None else options.train.mixed_precision
    if wanted == "fp16" and not torch.cuda.is_available():
        yield Finding("precision", "note", "fp16 needs a GPU: the run would use float32")
    if wanted == "bf16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        yield Finding("precision", "note", "bf16 is slow on this GPU: take fp16")


def disk(folder: Path, needed: int | None) -> Finding:
    """Free space where runs are written, against two checkpoints."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK):
        return Finding("disk", "bad", f"'{there}' is not writable: choose path.experiments_root")
    text = f"{gib(free)} free in '{there}'"
    if needed is None:
        return Finding("disk", "ok", text)
    if free < needed:
        text += f", two checkpoints take {gib(needed)}: free space, or path.experiments_root"
        return Finding("disk", "bad", text)
    return Finding("disk", "ok", f"{text}, two checkpoints take {gib(needed)}")
