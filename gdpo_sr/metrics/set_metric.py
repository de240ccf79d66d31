"""Metrics of whole sets of pictures, such as FID."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gdpo_sr.metrics.pyiqa_build import MetricUnavailable, build
from gdpo_sr.metrics.registry import OF_SETS, resolve
from gdpo_sr.types import MetricError


class SetMetric:
    """A distance between two sets of pictures; made by `create_set_metric`.

    Attributes:
        name: as given to `create_set_metric`.
        lower_better: whether a smaller score is a better set.
    """

    def __init__(self, name: str, model: Callable[..., Any], lower_better: bool):
        self.name = name
        self.lower_better = lower_better
        self._model = model

    def __call__(self, images: Sequence[Path], references: Sequence[Path]) -> float:
        """The distance between two lists of files, in any order; NaN with fewer than two of either.

        pyiqa takes folders, so it gets two temporary ones of links: what else lies beside the
        pictures does not count.

        Raises:
            MetricUnavailable: it cannot be computed by what is installed.
        """
        if min(len(images), len(references)) < 2:
            return math.nan
        with tempfile.TemporaryDirectory(prefix="gdpo_sr_") as name:
            folders = [
                _linked(Path(name) / side, files)
                for side, files in (("gt", references), ("results", images))
            ]
            try:
                score = self._model(*map(str, folders), num_workers=0, verbose=False)
            except Exception as error:  # whatever pyiqa meets, SciPy 1.18's sqrtm for one
                raise MetricUnavailable(self.name, _failed(error)) from error
        return float(score) if math.isfinite(score) else math.nan


def create_set_metric(name: str, device: str = "cpu", allow_download: bool = True) -> SetMetric:
    """Build a metric of sets.

    Raises:
        MetricUnavailable: its weights are not on this machine.
        MetricError: not a metric of two sets.
    """
    theirs, options = resolve(name)
    if theirs not in OF_SETS or theirs == "inception_score":
        raise MetricError(f"metric '{name}' does not compare two sets of images")
    model = build(theirs, device, options, allow_download)
    return SetMetric(name, model, bool(model.lower_better))


def _linked(folder: Path, files: Sequence[Path]) -> Path:
    folder.mkdir()
    for index, path in enumerate(sorted(files)):
        (folder / f"{index:06d}{path.suffix}").symlink_to(path.resolve())
    return folder


def _failed(error: Exception) -> str:
    remedy = "pip install 'scipy<1.18'" if "disp" in str(error) else "see pyiqa's documentation"
    return f"it failed ({type(error).__name__}: {error}); {remedy}"
