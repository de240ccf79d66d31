"""What the benchmarks share: calls in turns, medians, the machine's name."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple


class Times(NamedTuple):
    """Median, 90th percentile and least of some durations; a busy machine spares the least."""

    median: float
    p90: float
    fastest: float


def summary(durations: list[float]) -> Times:
    """`Times` of at least one duration; p90 is a measured value, not an interpolated one."""
    ordered = sorted(durations)
    p90 = ordered[min(len(ordered) * 9 // 10, len(ordered) - 1)]
    return Times(statistics.median(ordered), p90, ordered[0])


def in_turns(
    functions: Mapping[str, Callable[[], object]],
    runs: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Times]:
    """Seconds by `clock` of each function, called in turns after a call of each to warm up.

    A function that is not to return before a device is done waits for it itself.
    """
    for function in functions.values():
        function()
    durations: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(runs):
        for name, function in functions.items():
            start = clock()
            function()
            durations[name].append(clock() - start)
    return {name: summary(row) for name, row in durations.items()}


def machine(*packages: str) -> str:
    """One line: processor, cores, load, versions, and the command that was run."""
    names = [line for line in _cpu_lines() if line.startswith("model name")]
    processor = names[0].split(":")[1].strip() if names else platform.machine()
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    script = Path(sys.argv[0]).stem
    command = " ".join(["python -m", f"benchmarks.{script}", *sys.argv[1:]])
    return (
        f"`{command}`, {time.strftime('%Y-%m-%d', time.gmtime())}: {processor}, "
        f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), "
        f"Python {platform.python_version()}, {versions}"
    )


def _cpu_lines() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
