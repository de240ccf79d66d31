"""Start-up time of the three commands, as a Markdown table.

python -m benchmarks.startup [--runs 5]

Each command runs in a process of its own, in turns with the others, after one round that warms the
disk's cache. The CPU time of the process and its children counts, which other jobs disturb less
than wall time does; the ratio is to a process that only imports torch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.turns import machine, summary

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "datasets" / "example" / "val" / "picos_de_europa.jpg"
FIRST = "import torch"


def commands(folder: Path) -> dict[str, list[str]]:
    """Name -> arguments of Python; pictures come from `folder` and results go there."""
    low, high, out = (str(folder / name) for name in ("low.png", "high.png", "out"))
    dry = ["train.py", "-opt", "options/gdpo_sr.yml", "--dry_run"]
    return {
        FIRST: ["-c", "import torch"],
        "`train.py --help`": ["train.py", "--help"],
        "`inference.py --help`": ["inference.py", "--help"],
        "`evaluate.py --help`": ["evaluate.py", "--help"],
        "`train.py -opt ... --dry_run`": dry,
        "`inference.py`, one picture of 64 px": ["inference.py", "-i", low, "-o", out]
        + ["--overwrite"],
        "`evaluate.py`, PSNR of one picture": ["evaluate.py", "-i", high, "-g", high]
        + ["--metrics", "psnr_y"],
    }


def make_pictures(folder: Path) -> None:
    """low.png, 64 px, and high.png, 256 px."""
    from PIL import Image

    with Image.open(PHOTO) as photo:
        for name, side in (("low", 64), ("high", 256)):
            photo.resize((side, side)).save(folder / f"{name}.png")


def once(arguments: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of one process.

    Raises:
        RuntimeError: it failed.
    """
    before, start = os.times(), time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    wall, after = time.monotonic() - start, os.times()
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()}")
    cpu = after.children_user + after.children_system
    return cpu - before.children_user - before.children_system, wall


def measure(todo: dict[str, list[str]], runs: int) -> dict[str, tuple[float, float]]:
    """Median CPU and wall seconds of each, called in turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in todo}
    for turn in range(runs + 1):
        for name, arguments in todo.items():
            found = once(arguments)
            if turn:
                times[name].append(found)
    return {
        name: (summary([cpu for cpu, _ in row]).median, summary([wall for _, wall in row]).median)
        for name, row in times.items()
    }


def table(rows: dict[str, tuple[float, float]]) -> str:
    """Markdown table."""
    unit = rows[FIRST][0]
    lines = [f"| | median CPU s | of `{FIRST}` | median wall s |", "|---|---|---|---|"]
    for name, (cpu, wall) in rows.items():
        lines.append(f"| {name} | {cpu:.2f} | {cpu / unit:.2f} | {wall:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each command (5)")
    parser.add_argument("--help_only", action="store_true", help="without the slow commands")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(Path(folder))
        todo = commands(Path(folder))
        if args.help_only:
            todo = {name: c for name, c in todo.items() if c[-1] == "--help" or name == FIRST}
        print(f"{machine('torch')}\n\n{table(measure(todo, args.runs))}")


if __name__ == "__main__":
    main()
