"""Memory and handles of a run over thousands of updates, of both stages, seen from outside.

python -m benchmarks.long_run                     # 2,000 updates of each stage: CSV, plot, table
python -m benchmarks.long_run --updates 200 --stages stage2 --out /tmp/long

From the repository's root. Runs of `train.py` on the tests' tiny base, with a loader's worker,
checkpoints, validations and TensorBoard; a sample every second of the process and its worker.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("stage", "update", "seconds", "mib", "handles", "threads", "log_kib")
WARM = 0.25
"""Share of the updates before caches are full: slopes are of what follows."""
OPTIONS = {
    "stage1": {"train:losses:perceptual": "{}", "train:losses:vsd:cfg_scale": 1},
    "stage2": {
        "train:group_size": 2,
        "train:cell_size": "null",
        "train:loss": "{type: gdpo, omega: 20}",
        "train:reward:fixed_perception_weight": "null",
        "train:reward:perception": "{}",
        "train:reward:fidelity": "{psnr_y: {metric: psnr_y}}",
    },
}
FILES = {"stage1": "naosd.yml", "stage2": "gdpo_sr.yml"}

Row = dict[str, str | float]


def command(stage: str, base: Path, folder: Path, updates: int) -> list[str]:
    """`train.py` with crops of 64 pixels, 20 checkpoints and 4 validations."""
    often = max(updates // 20, 1)
    forced: dict[str, object] = {
        "name": stage,
        "num_threads": 1,
        "network_g:base": base,
        "path:experiments_root": folder,
        "datasets:train:gt_size": 64,
        "datasets:train:batch_size": 1,
        "datasets:train:num_workers": 1,
        "datasets:val:gt_size": 64,
        "datasets:val:max_images": 2,
        "train:total_iter": updates,
        "train:ema_decay": 0.9,
        "val:metrics": "{gmsd: {metric: gmsd}}",
        "val:val_freq": max(updates // 4, 1),
        "logger:print_freq": 1,
        "logger:save_checkpoint_freq": often,
        "logger:show_progress": "false",
        **OPTIONS[stage],
    }
    if stage == "stage1":
        forced["network_score:base"] = "null"
    pairs = [f"{key}={value}" for key, value in forced.items()]
    options = str(ROOT / "options" / FILES[stage])
    return [sys.executable, str(ROOT / "train.py"), "-opt", options, "--force_yml", *pairs]


def watch(stage: str, base: Path, folder: Path, updates: int) -> Iterator[Row]:
    """A row every second until the run ends.

    Raises:
        RuntimeError: it does not end well.
    """
    start = time.monotonic()
    with (folder / f"{stage}.out").open("wb") as out:
        run = subprocess.Popen(command(stage, base, folder, updates), stdout=out, stderr=out)
        while run.poll() is None:
            row = _sample(run.pid, folder / stage / "log")
            if row is not None and row["update"] < updates:  # after that it is taken apart
                yield {"stage": stage, "seconds": round(time.monotonic() - start, 1), **row}
            time.sleep(1)
    if run.returncode:
        raise RuntimeError(f"{stage} ended with {run.returncode}, see {out.name}")


def _sample(pid: int, log: Path) -> Row | None:
    """The process and its children together; None before the first update."""
    file = log / "train.log"
    done = re.findall(r": update (\d+) of", file.read_text()) if file.is_file() else []
    if not done:
        return None
    try:
        parts = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return {
            "update": int(done[-1]),
            "mib": round(sum(p.memory_info().rss for p in parts) / 2**20, 1),
            "handles": sum(p.num_fds() for p in parts),
            "threads": sum(p.num_threads() for p in parts),
            "log_kib": round(sum(f.stat().st_size for f in log.rglob("*") if f.is_file()) / 1024),
        }
    except psutil.NoSuchProcess:
        return None


def thinned(rows: list[Row], step: int) -> list[Row]:
    """Rows of one stage that are `step` updates apart, and the last one."""
    kept: list[Row] = []
    for row in rows:
        if not kept or row["update"] - kept[-1]["update"] >= step or row is rows[-1]:
            kept.append(row)
    return kept


def slope(rows: list[Row], column: str) -> float:
    """Growth per 1,000 updates, a fitted line over all but the first quarter."""
    x, y = (np.array([float(row[key]) for row in rows]) for key in ("update", column))
    late = x >= WARM * x.max()
    return float(np.polyfit(x[late], y[late], 1)[0] * 1000)


def table(rows: list[Row]) -> str:
    """Start, end and slope of every stage."""
    lines = [
        "| | updates | MiB after a quarter | at the end | MiB per 1,000 updates | handles | "
        "handles per 1,000 updates |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage in dict.fromkeys(row["stage"] for row in rows):
        own = [row for row in rows if row["stage"] == stage]
        late = [row for row in own if row["update"] >= WARM * own[-1]["update"]]
        lines.append(
            f"| {stage} | {own[-1]['update']} | {late[0]['mib']} | {late[-1]['mib']} | "
            f"{slope(own, 'mib'):+.2f} | {late[0]['handles']} to {late[-1]['handles']} | "
            f"{slope(own, 'handles'):+.2f} |"
        )
    return "\n".join(lines)


def plot(rows: list[Row], file: Path) -> None:
    """Memory and handles against updates, a column of panels for each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = {"mib": "memory, MiB", "handles": "open files and sockets"}
    figure, axes = pyplot.subplots(2, 1, figsize=(7, 5), sharex=True, constrained_layout=True)
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        for stage in dict.fromkeys(row["stage"] for row in rows):
            own = [row for row in rows if row["stage"] == stage]
            axis.plot([r["update"] for r in own], [r[column] for r in own], label=stage)
        axis.set(ylabel=label, ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="lower right")
    axes[-1].set_xlabel("updates")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Write CSV and plot, print the table."""
    from tests.tiny_base import tiny_base

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--stages", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--out", type=Path, default=Path("long_run"), help="without suffix")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = tiny_base(Path(folder) / "base")
        rows = []
        for stage in args.stages:
            seen = list(watch(stage, base, Path(folder), args.updates))
            rows += thinned(seen, max(args.updates // 200, 1))
    with args.out.with_suffix(".csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, args.out.with_suffix(".png"))
    print(table(rows))


if __name__ == "__main__":
    main()
