"""Metrics by name: those of pyiqa, the settings under which super-resolution papers report some
of them, and those of features in this package.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gdpo_sr.metrics.feature_maps import FEATURE_METRICS, FeatureMap
from gdpo_sr.metrics.niqe_parameters import niqe_parameters
from gdpo_sr.metrics.pyiqa_build import build
from gdpo_sr.metrics.separable import TWO_PASSES, fast
from gdpo_sr.types import MetricError

# Y channel of YCbCr (ITU-R BT.601, as in MATLAB), no crop: the setting of OSEDiff's and GDPO-SR's
# tables.
OWN_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "psnr_y": ("psnr", {"test_y_channel": True, "color_space": "ycbcr"}),
    "ssim_y": ("ssim", {"test_y_channel": True, "color_space": "ycbcr"}),
    "afine": ("afine_all_scale", {}),  # A-FINE's final score; pyiqa has no metric of the bare name
}
_SMALLEST_SIDE = {"niqe": 96, "ms_ssim": 176, "ssim": 11, "ssim_y": 11}
OF_SETS = ("fid", "sfid", "fid_dinov2", "inception_score")  # no score of one image
# vif scores an image differently (by 3e-4) when others are in the batch, gmsd in its last bit on
# some processors; A-FINE takes one image.
_ONE_BY_ONE = ("vif", "gmsd", "afine", "afine_nr", "afine_fr", "afine_all", "afine_all_scale")
TF32 = "tf32"
_TOLERANCE = 1e-3  # values this far outside [0, 1] are rounding and are clipped


class Metric:
    """A measure of single images; made by `create_metric`.

    Attributes:
        name: as given to `create_metric`.
        lower_better: whether a smaller score is a better image.
        full_reference: whether it compares with a reference.
        failures: images without a score so far.
        reason: why the latest image without a score has none.
        precision: of the network: autocast's, "tf32" (float32 whose products have 10 bits on a
            GPU), or None for float32.
    """

    def __init__(
        self, name: str, model: Callable[..., Any], lower_better: bool, full_reference: bool
    ):
        self.name = name
        self.lower_better = lower_better
        self.full_reference = full_reference
        self.failures = 0
        self.reason = ""
        self.precision: torch.dtype | str | None = None
        self._model = model

    @torch.no_grad()
    def __call__(
        self, images: torch.Tensor, references: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores (N,) float32 of `images`, each independent of the others; NaN where the metric has
        none.

        Args:
            images: (N, 3, H, W), RGB in [0, 1].
            references: (N, 3, H, W), needed by a full-reference metric and ignored by others.

        Raises:
            MetricError: missing references, wrong shapes, or values outside [0, 1].
        """
        inputs = [self._checked(part, images.shape) for part in self._inputs(images, references)]
        count = 1 if self.name in _ONE_BY_ONE else max(len(images), 1)
        parts = zip(*(part.split(count) for part in inputs), strict=True)
        scores = torch.cat([self._whole(part) for part in parts])
        for index in torch.nonzero(~scores.isfinite()).flatten().tolist():
            scores[index] = self._single([part[index : index + 1] for part in inputs])
        self.failures += int(scores.isnan().sum())
        return scores.to(images.device)

    def _inputs(self, images: torch.Tensor, references: torch.Tensor | None) -> list[torch.Tensor]:
        if not self.full_reference:
            return [images]
        if references is None:
            raise MetricError(f"metric '{self.name}' compares with a reference; give one per image")
        return [images, references]

    def _checked(self, images: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or images.shape != shape:
            shapes = f"{tuple(shape)} and {tuple(images.shape)}"
            raise MetricError(f"metric '{self.name}' needs equal shapes (N, 3, H, W), got {shapes}")
        images = images.float()
        if (images < -_TOLERANCE).any() or (images > 1 + _TOLERANCE).any():
            low, high = float(images.min()), float(images.max())
            raise MetricError(
                f"metric '{self.name}' needs values in [0, 1], got {low:.3f} to {high:.3f}"
            )
        return images.clamp(0, 1)

    def _whole(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Scores of the whole batch, or NaN for all of it where the metric fails."""
        count = len(inputs[0])
        try:
            with _computing_in(self.precision, inputs[0].device.type):
                scores = torch.as_tensor(self._model(*[part.clone() for part in inputs]))
                scores = scores.reshape(-1).float().cpu()
        except Exception as error:  # one bad image; `_single` finds out which
            self.reason = self._why(inputs[0].shape, str(error) or type(error).__name__)
            return torch.full((count,), torch.nan)
        if len(scores) != count or not bool(scores.isfinite().all()):
            self.reason = self._why(inputs[0].shape, "it gave no finite number")
        return scores.clone() if len(scores) == count else torch.full((count,), torch.nan)

    def _why(self, shape: torch.Size, failure: str) -> str:
        """A short reason; of small images their size, which these metrics cannot take."""
        smallest = _SMALLEST_SIDE.get(self.name, 0)
        if min(shape[-2:]) < smallest:
            return f"needs {smallest} pixels a side, this has {shape[-1]}x{shape[-2]}"
        return " ".join(failure.split())[:200]

    def _single(self, inputs: list[torch.Tensor]) -> float:
        """Score of a batch of one; NaN also for infinity."""
        score = self._whole(inputs)
        return float(score) if bool(score.isfinite().all()) else torch.nan


@contextmanager
def _computing_in(precision: torch.dtype | str | None, device: str) -> Iterator[None]:
    half = precision if isinstance(precision, torch.dtype) else None
    before = torch.get_float32_matmul_precision()
    if precision == TF32:
        torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast(device, half, enabled=half is not None):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def create_metric(
    name: str, device: str = "cpu", allow_download: bool = True, **options: Any
) -> Metric:
    """Build a metric.

    Args:
        name: `psnr_y`, `ssim_y` (Y channel of YCbCr, no crop), `afine`, `texture_energy`,
            `feature_distance`, or any name of pyiqa; `niqe` needs no download here.
        device: where it is computed.
        allow_download: False never touches the network.
        **options: for pyiqa, such as ``crop_border=4``.

    Raises:
        MetricUnavailable: its weights or a Python module are not on this machine.
        MetricError: unknown name (the closest ones are named), wrong option.
    """
    if name in FEATURE_METRICS:
        return _of_features(name, device, options)
    theirs, merged = resolve(name, options)
    if theirs in OF_SETS:
        raise MetricError(
            f"metric '{name}' compares whole sets of images; choose one that scores single images"
        )
    model = _build(theirs, device, merged, allow_download)
    scorer = fast(model) if theirs in TWO_PASSES else model
    return Metric(name, scorer, bool(model.lower_better), model.metric_mode == "FR")


def differentiable_metric(name: str, device: str = "cpu", **options: Any) -> nn.Module:
    """The metric of pyiqa as a module that gives scores (N,) with a graph; arguments, and its
    attributes `lower_better` and `metric_mode`, as pyiqa has them.

    Raises:
        MetricError: as `create_metric`.
    """
    theirs, merged = resolve(name, options)
    scores = {"as_loss": True, "loss_reduction": "none"}
    return _build(theirs, device, {**merged, **scores}).requires_grad_(False)


def trial_pictures(size: int, count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture (1, 3, size, size) and `count` noisy ones, to see whether there is a gradient."""
    rng = torch.Generator().manual_seed(0)
    hr = torch.rand(1, 3, size, size, generator=rng) * 0.8 + 0.1
    return hr, (hr + 0.05 * torch.randn(count, 3, size, size, generator=rng)).clamp(0, 1)


def _build(
    theirs: str, device: str, options: Mapping[str, Any], allow_download: bool = True
) -> Any:
    if theirs != "niqe" or "pretrained_model_path" in options:
        return build(theirs, device, options, allow_download)
    with niqe_parameters() as path:
        parameters = {**options, "pretrained_model_path": str(path)}
        return build(theirs, device, parameters, allow_download)


def _of_features(name: str, device: str, options: Mapping[str, Any]) -> Metric:
    if options:
        raise MetricError(f"metric '{name}' takes no options, got {dict(options)}: leave them out")
    return Metric(name, FeatureMap(name, device), lower_better=True, full_reference=True)


def resolve(name: str, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """pyiqa's name of `name`, and all options that differ from pyiqa's own.

    Raises:
        MetricError: unknown name; the closest ones are named.
    """
    import pyiqa

    theirs, preset = OWN_NAMES.get(name, (name, {}))
    if theirs not in pyiqa.list_models():
        raise MetricError(_unknown(name, [*OWN_NAMES, *FEATURE_METRICS, *pyiqa.list_models()]))
    return theirs, {**preset, **(options or {})}


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(close)}?" if close else "see pyiqa.list_models() for the names"
    return f"unknown metric '{name}'; {hint}"
