"""Hold a base model against the figures that it was to reach, and print both as Markdown.

    python research/base/check_base.py [MODEL] --bench BENCH [--noises 8]

BENCH holds realsr/{HR,LR} and drealsr/{HR,LR}, pictures of equal names; without it only the
example photos are measured. Metrics are those of `evaluate.py --protocol offline`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from base_measures import autoencoder_psnr, measure_diversity, measure_pair, seconds_for_512
from tqdm import tqdm

from gdpo_sr.cli import run_main
from gdpo_sr.metrics import PROTOCOLS, create_metric
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.types import DatasetError
from gdpo_sr.utils.image_io import list_images, read_image

EXAMPLE = Path(__file__).resolve().parents[2] / "datasets" / "example"
METRICS = PROTOCOLS["offline"]
NIQE_GAIN = {"realsr": 1.8, "drealsr": 2.5}
PIQE_GAIN = 35.0

Figures = dict[str, dict[str, float]]
"""By set, then by name; those of the model itself under "model"."""


@dataclass(frozen=True)
class Threshold:
    """A figure and its bound; NaN: not measured."""

    what: str
    value: float
    bound: float
    at_most: bool = False

    def row(self) -> str:
        """A row of the table."""
        wanted = f"{'at most' if self.at_most else 'at least'} {self.bound:.3f}"
        if math.isnan(self.value) or math.isnan(self.bound):
            return f"| {self.what} | {wanted} | - | not measured |"
        passed = self.value <= self.bound if self.at_most else self.value >= self.bound
        return f"| {self.what} | {wanted} | {self.value:.3f} | {'pass' if passed else 'FAIL'} |"


def thresholds(figures: Figures) -> list[Threshold]:
    """What was asked of the base. Gains are bicubic minus model for NIQE and PIQE, which are better
    when lower.
    """

    def get(group: str, name: str) -> float:
        return figures.get(group, {}).get(name, math.nan)

    def gain(group: str, name: str) -> float:
        return get(group, name) - get(group, f"{name}_bicubic")

    found = [Threshold("autoencoder, PSNR-Y of HR (dB)", get("model", "autoencoder"), 38)]
    twice = all(
        -gain(group, "niqe") >= 2 * asked and -gain(group, "piqe") >= 2 * PIQE_GAIN
        for group, asked in NIQE_GAIN.items()
    )
    found.append(Threshold("val: PSNR over bicubic", gain("val", "psnr_y"), -0.5 if twice else 0.2))
    for group, asked in NIQE_GAIN.items():
        found += [
            Threshold(f"{group}: PSNR over bicubic", gain(group, "psnr_y"), -1),
            Threshold(f"{group}: SSIM over bicubic", gain(group, "ssim_y"), -0.01),
            Threshold(f"{group}: NIQE below bicubic", -gain(group, "niqe"), asked),
            Threshold(f"{group}: PIQE below bicubic", -gain(group, "piqe"), PIQE_GAIN),
        ]
    textured, smooth = get("all", "textured"), get("all", "smooth")
    found += [
        Threshold("spread over 8 noises, textured (/255)", textured, 4),
        Threshold("the same, smooth over textured", smooth / textured, 0.5, True),
        Threshold("PSNR spread in a group (dB)", get("all", "psnr_spread"), 0.04),
    ]
    for group in (name for name in figures if name not in ("model", "all")):
        energy = get(group, "grid") / get(group, "grid_hr")
        found.append(Threshold(f"{group}: energy at the grid's period over HR", energy, 1.1, True))
        peak = get(group, "peak") / get(group, "peak_hr")
        found.append(Threshold(f"{group}: the same, next frequencies as unit", peak, 1.1, True))
        found.append(Threshold(f"{group}: colour shift (/255)", get(group, "shift"), 1, True))
    return [*found, Threshold("512x512, one thread (s)", get("model", "seconds"), 2, True)]


def mean_figures(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of every figure over the pictures that have it."""
    names = rows[0] if rows else {}
    return {name: float(torch.tensor([row[name] for row in rows]).nanmean()) for name in names}


def read_pairs(hr_folder: Path, lr_folder: Path, limit: int | None) -> list[tuple[Path, Path]]:
    """Files of equal stems, sorted.

    Raises:
        DatasetError: a folder is missing or empty, or a picture has no partner.
    """
    lr = {path.stem: path for path in list_images(lr_folder)}
    hr = list_images(hr_folder)[:limit]
    if missing := [path.name for path in hr if path.stem not in lr]:
        raise DatasetError(f"{lr_folder}: no LR picture for {missing[0]}; names must be equal")
    return [(path, lr[path.stem]) for path in hr]


def measure(
    pipe: OneStepSRPipeline, sets: dict[str, list[tuple[Path, Path]]], noises: int
) -> Figures:
    """All figures of a model on sets of (HR, LR) files."""
    metrics = {name: create_metric(name) for name in METRICS}
    psnr, rows, coded = metrics["psnr_y"], {}, []
    for name, pairs in sets.items():
        rows[name] = []
        for files in tqdm(pairs, desc=name, unit="picture"):
            hr, lr = (read_image(path) for path in files)
            diversity = measure_diversity(pipe, psnr, hr, lr)
            rows[name].append({**measure_pair(pipe, metrics, hr, lr, noises), **diversity})
            if name in NIQE_GAIN:
                coded.append(autoencoder_psnr(pipe, psnr, hr))
    figures = {name: mean_figures(found) for name, found in rows.items()}
    figures["all"] = mean_figures([row for found in rows.values() for row in found])
    autoencoder = sum(coded) / len(coded) if coded else math.nan
    figures["model"] = {"autoencoder": autoencoder, "seconds": seconds_for_512(pipe)}
    return figures


def markdown(figures: Figures) -> str:
    """The thresholds, then every figure per set."""
    lines = ["| threshold | wanted | measured | |", "|---|---|---|---|"]
    lines += [threshold.row() for threshold in thresholds(figures)]
    sets = [name for name in figures if name != "model"]
    lines += ["", f"| mean over pictures | {' | '.join(sets)} |", "|---" * (len(sets) + 1) + "|"]
    for name in figures[sets[0]]:
        values = " | ".join(f"{figures[group][name]:.4g}" for group in sets)
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure a base model against its thresholds.")
    parser.add_argument("model", nargs="?", default="mini", help="default: mini")
    parser.add_argument("--bench", type=Path, help="folder with realsr and drealsr")
    parser.add_argument("--photos", type=Path, default=EXAMPLE, help="folder with val and val_lr")
    parser.add_argument("--noises", type=int, default=1, help="8: spread of the metrics too; slow")
    parser.add_argument("--limit", type=int, help="pictures per set (all)")
    args = parser.parse_args(argv)
    sets = {"val": read_pairs(args.photos / "val", args.photos / "val_lr", args.limit)}
    for name in NIQE_GAIN if args.bench else ():
        folder = args.bench / name
        sets[name] = read_pairs(folder / "HR", folder / "LR", args.limit)
    print(markdown(measure(OneStepSRPipeline.from_pretrained(args.model), sets, args.noises)))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
