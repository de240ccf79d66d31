"""Scoring the pictures of every run with every metric of a protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from gdpo_sr.evaluation.folders import Matching, Sources, match_names
from gdpo_sr.evaluation.results import Evaluation, MetricInfo, Run
from gdpo_sr.metrics import (
    Metric,
    MetricUnavailable,
    Protocol,
    SetMetric,
    create_metric,
    create_set_metric,
)
from gdpo_sr.metrics.protocols import metric_facts, package_versions
from gdpo_sr.metrics.registry import OF_SETS
from gdpo_sr.types import ImageError, MetricError
from gdpo_sr.utils.image_io import read_image

Built = dict[str, Metric | SetMetric]


def evaluate(
    sources: Sources,
    ground_truth: str | None,
    protocol: Protocol,
    device: str = "cpu",
    allow_download: bool = False,
    matching: Matching | None = None,
) -> Evaluation:
    """Score all pictures; one that cannot be read is noted in its run and the others go on.

    `matching` says which pictures belong together.

    Raises:
        DatasetError: names that do not match.
        MetricError: an unknown metric, or none that can be computed.
    """
    pictures, references, left_out = match_names(sources, ground_truth, matching or Matching())
    infos, metrics = build_metrics(protocol, device, allow_download)
    methods = {
        name: [Run(str(folder), images) for folder, images in zip(folders, found, strict=True)]
        for (name, folders), found in zip(sources.items(), pictures.values(), strict=True)
    }
    single = {name: metric for name, metric in metrics.items() if isinstance(metric, Metric)}
    count = sum(len(run.images) for runs in methods.values() for run in runs)
    with tqdm(total=count, unit="image", smoothing=0.1) as progress:
        for name, runs in methods.items():
            for run in runs:
                progress.set_description(name)
                score_run(run, references, single, protocol.crop_border, progress)
    sets = [metric for metric in metrics.values() if isinstance(metric, SetMetric)]
    reasons = {metric.name: _score_sets(methods, references, metric) for metric in sets}
    infos = [replace(info, missing=reasons.get(info.name, info.missing)) for info in infos]
    versions = package_versions()
    return Evaluation(protocol.record(), versions, infos, methods, references, left_out)


def build_metrics(
    protocol: Protocol, device: str, allow_download: bool
) -> tuple[list[MetricInfo], Built]:
    """Facts about every metric of the protocol, and those that can be computed here.

    Raises:
        MetricError: an unknown metric, or none that can be computed.
    """
    infos, metrics = [], {}
    for name in protocol.metrics:
        of_sets = name in OF_SETS
        create = create_set_metric if of_sets else create_metric
        missing = ""
        try:
            metrics[name] = create(name, device, allow_download)
        except MetricUnavailable as error:
            missing = error.remedy
        infos.append(MetricInfo(name, metric_facts(name)[0], of_sets, missing))
    if not metrics:
        reasons = "; ".join(f"{info.name}: {info.missing}" for info in infos)
        raise MetricError(f"no metric can be computed: {reasons}")
    return infos, metrics


def score_run(
    run: Run,
    references: Mapping[str, Path],
    metrics: Mapping[str, Metric],
    crop_border: int,
    progress: tqdm,
) -> None:
    """Fill `run.scores` and `run.problems`."""
    for name, path in run.images.items():
        try:
            image, target = _read_pair(path, references.get(name), crop_border)
        except ImageError as error:
            run.problems[name] = str(error)
            progress.update()
            continue
        scores = {key: float(metric(image, target)) for key, metric in metrics.items()}
        run.scores[name] = scores
        absent = [f"{m} ({metrics[m].reason})" for m, value in scores.items() if math.isnan(value)]
        if absent:
            run.problems[name] = f"no score of {', '.join(absent)}; left out of the mean"
        progress.update()


def _score_sets(
    methods: Mapping[str, list[Run]], references: Mapping[str, Path], metric: SetMetric
) -> str:
    """Fill `set_scores` of all runs; why it cannot be done, or ""."""
    for run in (run for runs in methods.values() for run in runs):
        names = [name for name in run.images if name in run.scores]  # those that can be read
        try:
            score = metric([run.images[n] for n in names], [references[n] for n in names])
        except MetricUnavailable as error:
            return error.remedy
        run.set_scores[metric.name] = score
    return ""


def _read_pair(
    result: Path, reference: Path | None, crop_border: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The two pictures, (1, 3, H, W) each, 8-bit values, without their borders."""
    image = _read(result)
    target = None if reference is None else _read(reference)
    if target is not None and image.shape != target.shape:
        ours, theirs = (f"{part.shape[2]}x{part.shape[1]}" for part in (image, target))
        raise ImageError(f"size {ours} differs from {theirs} of {reference}; they must be equal")
    if 2 * crop_border >= min(image.shape[1:]):
        raise ImageError(
            f"nothing is left of {image.shape[2]}x{image.shape[1]} after a crop of {crop_border}"
        )
    return _crop(image, crop_border), None if target is None else _crop(target, crop_border)


def _read(path: Path) -> torch.Tensor:
    """(3, H, W) in [0, 1], rounded to 8 bits: published figures are of 8-bit files."""
    return (read_image(path) * 255).round() / 255


def _crop(image: torch.Tensor, border: int) -> torch.Tensor:
    height, width = image.shape[1:]
    return image[None, :, border : height - border, border : width - border]
