"""Time of `texture_ratio` on one 512x512 picture, against a plain patch loop with OpenCV.

    python benchmarks/texture_ratio.py [--runs 15] [--image PHOTO]

Both run on one thread and take turns; the medians of their CPU times are printed as a Markdown
table. The loop is our own restatement of the published procedure (grey, 10x10 patches enlarged to
64x64, Sobel magnitude, histogram of 512 bins over [-5.5, 5.5], entropy in bits times patch area,
textured over 50).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from gdpo_sr.rewards.content_weights import texture_ratio

PATCH, THRESHOLD, SIDE = 10, 50.0, 512
TOLERANCE = 1e-3  # the two shares must agree, else the times compare nothing


def made_up_picture() -> np.ndarray:
    """(512, 512, 3) uint8 RGB: the left half a smooth ramp, the right half noise of one seed."""
    ramp = np.tile(np.linspace(60, 200, SIDE, dtype=np.uint8)[:, None, None], (1, SIDE, 3))
    noise = np.random.default_rng(0).integers(0, 256, ramp.shape, dtype=np.uint8)
    return np.where(np.arange(SIDE)[None, :, None] < SIDE // 2, ramp, noise)


def read_picture(path: Path) -> np.ndarray:
    """Centre crop of a picture, (512, 512, 3) uint8 RGB."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None or min(image.shape[:2]) < SIDE:
        raise SystemExit(f"{path}: not a readable picture of at least {SIDE} px a side")
    top, left = ((size - SIDE) // 2 for size in image.shape[:2])
    return cv2.cvtColor(image[top : top + SIDE, left : left + SIDE], cv2.COLOR_BGR2RGB)


def patch_entropy(patch: np.ndarray) -> float:
    """Entropy in bits of the gradient magnitudes of one grey patch in [0, 1]."""
    patch = cv2.resize(patch, (64, 64), interpolation=cv2.INTER_LINEAR)
    horizontal = cv2.Sobel(patch, cv2.CV_64F, 1, 0, ksize=3, borderType=cv2.BORDER_REPLICATE)
    vertical = cv2.Sobel(patch, cv2.CV_64F, 0, 1, ksize=3, borderType=cv2.BORDER_REPLICATE)
    magnitude = cv2.magnitude(horizontal, vertical).astype(np.float32)
    counts = cv2.calcHist([magnitude], [0], None, [512], [-5.5, 5.5])
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum())


def texture_ratio_by_loop(image: np.ndarray) -> float:
    """Share of the area of a uint8 RGB picture that lies in textured patches."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) / 255.0
    textured = 0
    for top in range(0, grey.shape[0], PATCH):
        for left in range(0, grey.shape[1], PATCH):
            patch = grey[top : top + PATCH, left : left + PATCH]
            textured += patch.size * (patch_entropy(patch) * patch.size > THRESHOLD)
    return textured / grey.size


def timed(function: Callable[[], float]) -> tuple[float, float]:
    """Result and milliseconds of CPU time of one call."""
    start = time.process_time()
    value = function()
    return value, 1e3 * (time.process_time() - start)


def measure(image: np.ndarray, runs: int) -> dict[str, tuple[float, float, float, float]]:
    """Share, median, fastest and slowest milliseconds of both, called in turns after a warm-up."""
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    functions: dict[str, Callable[[], float]] = {
        "patch loop with OpenCV": lambda: texture_ratio_by_loop(image),
        "`texture_ratio`": lambda: texture_ratio(tensor).item(),
    }
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    values: dict[str, float] = {}
    for _ in range(runs):
        for name, function in functions.items():
            values[name], milliseconds = timed(function)
            times[name].append(milliseconds)
    return {
        name: (values[name], statistics.median(row), min(row), max(row))
        for name, row in times.items()
    }


def table(rows: dict[str, tuple[float, float, float, float]]) -> str:
    """Markdown table; the ratio is that of the medians, the first row counting as 1."""
    base = next(iter(rows.values()))[1]
    lines = ["| | textured share | median CPU ms | fastest | slowest | times as fast |"]
    lines.append("|---|---|---|---|---|---|")
    for name, (share, median, fastest, slowest) in rows.items():
        numbers = f"{median:.1f} | {fastest:.1f} | {slowest:.1f} | {base / median:.1f}"
        lines.append(f"| {name} | {share:.4f} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15, help="timed calls of each (default 15)")
    parser.add_argument("--image", type=Path, help="a photo, at least 512 px (default: made up)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = measure(read_picture(args.image) if args.image else made_up_picture(), args.runs)
    print(table(rows))
    loop, ours = (row[0] for row in rows.values())
    if abs(loop - ours) > TOLERANCE:
        raise SystemExit(f"the shares differ by {abs(loop - ours):.4f}, more than {TOLERANCE}")


if __name__ == "__main__":
    main()
