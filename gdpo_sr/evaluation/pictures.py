"""The pictures of the report: which ones, which part of them, and how they are embedded."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from gdpo_sr.evaluation.results import Evaluation, natural_key
from gdpo_sr.evaluation.statistics import mean_over
from gdpo_sr.types import ImageError
from gdpo_sr.utils.image_io import read_image

MAX_PICTURES = 40
MAX_SIDE = 768  # pixels; of a larger picture the window where the methods differ most is shown
MAX_BYTES = 60_000_000
QUALITY = 90  # of WebP
GROUND_TRUTH = "ground truth"


@dataclass(frozen=True)
class Shown:
    """One picture of the report.

    Attributes:
        images: data URIs by method, and by GROUND_TRUTH if there is one.
        part: which window is shown; empty if all of it is.
        difference: of the methods' scores, 1 = as much as the average picture.
    """

    name: str
    width: int
    height: int
    part: str
    difference: float
    images: dict[str, str]


def score_differences(evaluation: Evaluation) -> dict[str, float]:
    """How much the methods' scores of each picture differ, most first.

    The range over methods of each metric, divided by that metric's mean range over the pictures,
    averaged over metrics; with one method, 0 for all.
    """
    names = evaluation.names
    parts = []
    for metric in evaluation.metrics:
        if metric.missing or metric.of_sets:
            continue
        rows = [mean_over(evaluation.array(m, metric.name), 0) for m in evaluation.methods]
        spread = np.ptp(np.array(rows), axis=0)
        average = float(mean_over(spread))
        if math.isfinite(average) and average > 0:
            parts.append(spread / average)
    totals = mean_over(np.array(parts), 0) if parts else np.zeros(len(names))
    values = {name: float(np.nan_to_num(v)) for name, v in zip(names, totals, strict=True)}
    return dict(sorted(values.items(), key=lambda item: (-item[1], natural_key(item[0]))))


def shown_pictures(evaluation: Evaluation) -> Iterator[Shown]:
    """The pictures where methods differ most, up to MAX_PICTURES and MAX_BYTES; of several runs the
    first is shown. One that cannot be read is left out.
    """
    used = 0
    for name, difference in list(score_differences(evaluation).items())[:MAX_PICTURES]:
        arrays = _read_all(evaluation, name)
        if not arrays:
            continue
        height, width = next(iter(arrays.values())).shape[:2]
        box = window(list(arrays.values()))
        images = {source: _data_uri(array[box]) for source, array in arrays.items()}
        used += sum(map(len, images.values()))
        if used > MAX_BYTES:
            return
        rows, columns = (part.stop - part.start for part in box)
        part = "" if (rows, columns) == (height, width) else (
            f"{columns}x{rows} at ({box[1].start}, {box[0].start}) of {width}x{height}"
        )  # fmt: skip
        yield Shown(name, columns, rows, part, difference, images)


def window(arrays: list[np.ndarray], side: int = MAX_SIDE, stride: int = 16) -> tuple[slice, slice]:
    """Rows and columns, at most `side` each, where (H, W, 3) pictures of equal size differ most."""
    height, width = arrays[0].shape[:2]
    rows, columns = min(side, height), min(side, width)
    if (rows, columns) == (height, width):
        return slice(0, height), slice(0, width)
    stack = np.stack([array.astype(np.float32).mean(axis=2) for array in arrays])
    total = np.zeros((height + 1, width + 1))
    total[1:, 1:] = np.ptp(stack, axis=0).cumsum(0).cumsum(1)
    tops = range(0, height - rows + 1, stride)
    lefts = range(0, width - columns + 1, stride)

    def inside(top: int, left: int) -> float:
        low, right = top + rows, left + columns
        return total[low, right] - total[top, right] - total[low, left] + total[top, left]

    top, left = max(((t, s) for t in tops for s in lefts), key=lambda corner: inside(*corner))
    return slice(top, top + rows), slice(left, left + columns)


def _read_all(evaluation: Evaluation, name: str) -> dict[str, np.ndarray]:
    """8-bit pictures by source, those of the most common size: others cannot lie on each other."""
    paths: dict[str, Path] = {}
    if name in evaluation.references:
        paths[GROUND_TRUTH] = evaluation.references[name]
    paths |= {method: runs[0].images[name] for method, runs in evaluation.methods.items()}
    found = {}
    for source, path in paths.items():
        try:
            pixels = (read_image(path) * 255).round().byte()
        except ImageError:
            continue
        found[source] = pixels.permute(1, 2, 0).contiguous().numpy()
    sizes = [array.shape for array in found.values()]
    return {s: a for s, a in found.items() if a.shape == max(sizes, key=sizes.count)}


def _data_uri(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
