"""Hold bases against the bounds that a base was to reach; a table in Markdown.

    python research/base/check_base.py new=FOLDER mini --bench BENCH --pictures Real-ESRGAN=FOLDER

BENCH holds realsr/{HR,LR} and drealsr/{HR,LR}, pictures of equal names; without it only the
example photos are measured. Every figure is a mean over the pictures of a set and over the noises.
A figure that misses its bound is marked so; bicubic and pictures of others are judged on quality
alone. `benchmarks/real_esrgan.py` writes those of Real-ESRGAN. Two cores: `--threads 2`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from base_measures import Quality, pattern, rounded, seconds_for_512, spread
from base_methods import (
    SCALE,
    Method,
    Pairs,
    add_arguments,
    bicubic,
    load_models,
    model,
    named,
    pictures,
    read_sets,
)
from tqdm import tqdm

from gdpo_sr.cli import run_main
from gdpo_sr.metrics import PROTOCOLS
from gdpo_sr.utils.image_io import read_image

QUALITY = PROTOCOLS["offline"]
QUALITY_BOUNDS = {
    "val": (24.7, 0.635, 4.3, 28.0),
    "realsr": (25.9, 0.772, 6.4, 43.0),
    "drealsr": (27.3, 0.785, 6.9, 43.0),
}
"""By set, in the order of QUALITY."""
PATTERN = ("grid", "peak", "phases")
MODEL_BOUNDS = {"textured": 5.0, "smooth": 2.0, "psnr_spread": 0.1, "grid": 1.1, "peak": 1.1}
"""For bases, in every set; those of PATTERN over the original's. `phases` is for information: any
enlarged picture has more of them than an original.
"""
SECONDS = 2.0
AT_MOST = ("niqe", "piqe", "smooth", "grid", "peak")
DIGITS = {"psnr_y": 2, "ssim_y": 4, "niqe": 2, "piqe": 1, "psnr_spread": 3, "textured": 1}
HEADINGS = {
    "psnr_y": "PSNR-Y",
    "ssim_y": "SSIM-Y",
    "niqe": "NIQE",
    "piqe": "PIQE",
    "textured": "spread, texture",
    "smooth": "spread, smooth",
    "psnr_spread": "PSNR spread",
    "grid": "grid / original",
    "peak": "peak / original",
    "phases": "phases / original",
}

Figures = dict[str, float]


def bounds_of(name: str) -> Figures:
    """All bounds of a set; none on quality for a set that was given none."""
    return {**dict(zip(QUALITY, QUALITY_BOUNDS.get(name, ()), strict=False)), **MODEL_BOUNDS}


def misses(figures: Figures, bounds: Figures) -> list[str]:
    """Names of the figures that miss their bounds; what was not measured misses none."""
    found = {name: value for name, value in figures.items() if name in bounds}
    return [
        name
        for name, value in found.items()
        if (value > bounds[name] if name in AT_MOST else value < bounds[name])
    ]


def measure_picture(
    images: torch.Tensor, hr: torch.Tensor, quality: Quality, period: int
) -> Figures:
    """Figures of one picture's restorations (N, 3, H, W) in [0, 1] beside hr (3, H, W)."""
    levels = rounded(images)
    own = spread(images, hr[None], quality) if len(images) > 1 else {}
    return {**quality(levels, hr[None]), **own, **pattern(levels[0], hr, period)}


def mean_figures(rows: Sequence[Figures]) -> Figures:
    """Mean of every figure over the pictures that have it; energies as quotients of means."""
    found = {name: float(torch.tensor([row[name] for row in rows]).nanmean()) for name in rows[0]}
    for name in PATTERN:
        found[name] /= found.pop(f"{name}_hr")
    return found


def measure_set(
    method: Method, name: str, pairs: Pairs, quality: Quality, threads: int, period: int
) -> Figures:
    """Means over a set, `threads` pictures at a time."""

    def one(files: tuple[Path, Path]) -> Figures:
        hr = read_image(files[0])
        return measure_picture(method(name, files[1]), hr, quality, period)

    with ThreadPoolExecutor(threads) as pool:
        rows = list(tqdm(pool.map(one, pairs), desc=name, total=len(pairs), unit="picture"))
    return mean_figures(rows)


def cells(figures: Figures, bounds: Figures) -> str:
    """Cells of a row: a figure, and MISS beside it where it misses its bound."""
    missed = misses(figures, bounds)
    found = []
    for name in HEADINGS:
        value = figures.get(name, math.nan)
        text = "-" if math.isnan(value) else f"{value:.{DIGITS.get(name, 2)}f}"
        found.append(f"{text} MISS" if name in missed else text)
    return " | ".join(found)


def markdown(measured: dict[str, dict[str, Figures]], bases: Sequence[str]) -> str:
    """A table by set, then method: {set: {method: figures}}; `bases` have all bounds."""
    lines = [
        f"| set | method | {' | '.join(HEADINGS.values())} |",
        "|---" * (len(HEADINGS) + 2) + "|",
    ]
    for name, methods in measured.items():
        bounds = bounds_of(name)
        signs = (f"{'at most' if key in AT_MOST else 'at least'} {bounds[key]:g}"
                 if key in bounds else "-" for key in HEADINGS)  # fmt: skip
        lines.append(f"| {name} | bound | {' | '.join(signs)} |")
        for method, figures in methods.items():
            own = bounds if method in bases else {k: v for k, v in bounds.items() if k in QUALITY}
            lines.append(f"| {name} | {method} | {cells(figures, own)} |")
    return "\n".join(lines)


def summary(measured: dict[str, dict[str, Figures]], base: str, seconds: float) -> str:
    """What a base misses, in a line."""
    missed = [
        f"{name} {HEADINGS[key]}"
        for name, methods in measured.items()
        for key in misses(methods[base], bounds_of(name))
    ]
    slow = " MISS" if seconds > SECONDS else ""
    return (
        f"{base}: 512x512 on one thread {seconds:.2f} s (at most {SECONDS:g}){slow}; "
        f"bounds missed: {', '.join(missed) or 'none'}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description="Hold bases against their bounds.")
    add_arguments(parser)
    parser.add_argument("--noises", type=int, default=8, help="draws a picture (8)")
    parser.add_argument("--limit", type=int, help="pictures per set (all)")
    args = parser.parse_args(argv)
    sets = read_sets(args.photos, args.bench, args.limit)
    bases = load_models(args.models)
    others = {name: pictures(Path(folder)) for name, folder in named(args.pictures).items()}
    methods = {"bicubic": bicubic, **others}
    methods |= {name: model(pipe, args.noises) for name, pipe in bases.items()}
    periods = {name: pipe.generator.pixels_per_latent for name, pipe in bases.items()}
    torch.set_num_threads(1)
    quality = Quality()
    measured: dict[str, dict[str, Figures]] = {name: {} for name in sets}
    for name, pairs in sets.items():
        for method, restore in methods.items():
            period = periods.get(method, SCALE)
            found = measure_set(restore, name, pairs, quality, args.threads, period)
            measured[name][method] = found
    print(markdown(measured, list(bases)), end="\n\n")
    for name, pipe in bases.items():
        print(summary(measured, name, seconds_for_512(pipe)))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
