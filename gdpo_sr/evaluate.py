"""Score pictures: `python evaluate.py -i RESULTS -g GT [--metrics psnr_y ssim_y niqe piqe]
[--save_json FILE]`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from gdpo_sr.metrics import Metric, create_metric
from gdpo_sr.types import DatasetError, ImageError, OptionError
from gdpo_sr.utils.image_io import list_images, read_image

WITH_REFERENCE = ["psnr_y", "ssim_y", "niqe", "piqe"]
WITHOUT_REFERENCE = ["niqe", "piqe"]
_SHOWN = 5  # names listed in an error message


@dataclass
class Evaluation:
    """Scores by picture and metric (NaN where there is none) and what went wrong, by picture."""

    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def finite(self, metric: str) -> list[float]:
        """The scores of `metric` that are numbers."""
        values = (scores[metric] for scores in self.scores.values())
        return [value for value in values if math.isfinite(value)]

    def mean(self, metric: str) -> float:
        """Mean of `finite`, NaN if there is none."""
        values = self.finite(metric)
        return sum(values) / len(values) if values else math.nan


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0, or 1 if a picture could not be read or has no score; the others are scored all the same.

    Raises:
        GDPOSRError: folders whose names do not match, an unknown metric, a bad option.
    """
    args = _parser().parse_args(argv)
    if args.crop_border < 0:
        raise OptionError(f"--crop_border {args.crop_border} is negative; give 0 or more")
    pairs = match_pairs(args.input, args.gt)
    metrics = _build_metrics(args.metrics, with_reference=args.gt is not None)
    evaluation = evaluate_pairs(pairs, metrics, args.crop_border)
    print(format_table(evaluation, metrics))
    for name, problem in evaluation.problems.items():
        print(f"error: {name}: {problem}", file=sys.stderr)
    if args.save_json:
        _write_json(Path(args.save_json), evaluation, metrics)
    return 1 if evaluation.problems else 0


def match_pairs(results: str, references: str | None) -> list[tuple[Path, Path | None]]:
    """Pictures of `results`, each with the one of `references` that has its stem.

    Raises:
        DatasetError: missing or empty folder, a stem that occurs twice, or names on one side only.
    """
    ours = _by_stem(results)
    if references is None:
        return [(path, None) for path in ours.values()]
    theirs = _by_stem(references)
    problems = [
        f"{len(names)} without a partner in {folder}: {_shorten(names)}"
        for names, folder in (
            (sorted(ours.keys() - theirs), references),
            (sorted(theirs.keys() - ours), results),
        )
        if names
    ]
    if problems:
        raise DatasetError(
            f"names do not match: {'; '.join(problems)}; give both pictures the same name"
        )
    return [(path, theirs[stem]) for stem, path in ours.items()]


def evaluate_pairs(
    pairs: Sequence[tuple[Path, Path | None]], metrics: Mapping[str, Metric], crop_border: int = 0
) -> Evaluation:
    """Score every picture; one that cannot be read or scored is noted in `problems`, and the others
    go on.
    """
    evaluation = Evaluation()
    for result, reference in tqdm(pairs, desc="evaluate", unit="image"):
        try:
            image, target = _read_pair(result, reference, crop_border)
        except ImageError as error:
            evaluation.problems[result.name] = str(error)
            continue
        scores = {name: float(metric(image, target)) for name, metric in metrics.items()}
        evaluation.scores[result.name] = scores
        missing = [name for name, value in scores.items() if math.isnan(value)]
        if missing:
            evaluation.problems[result.name] = (
                f"no score of {', '.join(missing)}; left out of the mean"
            )
    return evaluation


def format_table(evaluation: Evaluation, metrics: Mapping[str, Metric]) -> str:
    """Mean, direction and number of finite scores of every metric, in aligned columns."""
    width = max(len("metric"), *(len(name) for name in metrics)) + 2
    lines = [f"{'metric':<{width}}  {'mean':>10}  {'n':>5}"]
    for name, metric in metrics.items():
        label = f"{name} {_arrow(metric.lower_better)}"
        lines.append(
            f"{label:<{width}}  {evaluation.mean(name):>10.4f}  {len(evaluation.finite(name)):>5}"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Score pictures with image quality metrics.")
    parser.add_argument("-i", "--input", required=True, help="picture or folder of results")
    parser.add_argument("-g", "--gt", help="picture or folder of ground truth, matched by stem")
    parser.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help=f"default: {' '.join(WITH_REFERENCE)} (without -g: {' '.join(WITHOUT_REFERENCE)});"
        " any name of pyiqa works",
    )
    parser.add_argument("--save_json", metavar="FILE", help="write scores per picture and means")
    parser.add_argument(
        "--crop_border", type=int, default=0, help="pixels cut off at each side (0)"
    )
    return parser


def _build_metrics(names: Sequence[str] | None, with_reference: bool) -> dict[str, Metric]:
    names = names or (WITH_REFERENCE if with_reference else WITHOUT_REFERENCE)
    metrics = {name: create_metric(name) for name in names}
    blind = [
        name for name, metric in metrics.items() if metric.full_reference and not with_reference
    ]
    if blind:
        raise OptionError(
            f"--metrics {' '.join(blind)}: needs a reference; give the ground truth with -g"
        )
    return metrics


def _by_stem(source: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_images(source):
        if path.stem in found:
            raise DatasetError(
                f"{found[path.stem]} and {path} have the same stem; keep one of them"
            )
        found[path.stem] = path
    return found


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _read_pair(
    result: Path, reference: Path | None, crop_border: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The two pictures, (1, 3, H, W) each, without their borders."""
    image = read_image(result)
    target = None if reference is None else read_image(reference)
    if target is not None and image.shape != target.shape:
        ours, theirs = (f"{part.shape[2]}x{part.shape[1]}" for part in (image, target))
        raise ImageError(f"size {ours} differs from {theirs} of {reference}; they must be equal")
    if 2 * crop_border >= min(image.shape[1:]):
        raise ImageError(
            f"nothing is left of {image.shape[2]}x{image.shape[1]} after a crop of {crop_border}"
        )
    return _crop(image, crop_border), None if target is None else _crop(target, crop_border)


def _crop(image: torch.Tensor, border: int) -> torch.Tensor:
    height, width = image.shape[1:]
    return image[None, :, border : height - border, border : width - border]


def _arrow(lower_better: bool) -> str:
    arrow, word = ("↓", "(lower)") if lower_better else ("↑", "(higher)")
    try:
        arrow.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return word
    return arrow


def _write_json(path: Path, evaluation: Evaluation, metrics: Mapping[str, Metric]) -> None:
    """Write scores, null where there is none; the file appears complete or not at all."""
    content = {
        "mean": {name: _number(evaluation.mean(name)) for name in metrics},
        "count": {name: len(evaluation.finite(name)) for name in metrics},
        "lower_better": {name: metric.lower_better for name, metric in metrics.items()},
        "images": {
            image: {name: _number(value) for name, value in scores.items()}
            for image, scores in evaluation.scores.items()
        },
        "problems": evaluation.problems,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
