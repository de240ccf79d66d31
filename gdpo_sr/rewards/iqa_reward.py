"""Any metric of `gdpo_sr.metrics` as a reward."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from gdpo_sr.metrics import create_metric
from gdpo_sr.metrics.registry import differentiable_metric
from gdpo_sr.rewards.base import Kind, check_options, check_shapes
from gdpo_sr.shared_random import draw_rows
from gdpo_sr.types import OptionError


class IQAReward:
    """Scores of an image quality metric, with the sign turned where lower is better.

    Args:
        metric_name: `psnr_y`, `ssim_y`, `niqe` or any name of pyiqa.
        kind: "fidelity" or "perception".
        weight: share among the rewards of its kind, not negative.
        device: where the metric is computed.
        options: for pyiqa, such as ``{"crop_border": 4}``.
        chunk: images scored at a time, all if None; it bounds memory and does not change the
            scores.
        flip_rng: where given, each group is turned upside down with probability 0.5, all its
            candidates and its HR picture alike. MANIQA takes 20 of a grid of 25 crops and so never
            meets the lowest 72 rows of a 512 x 512 picture, which would be free of any reward.

    Attributes:
        metric: has the precision of its network and the direction of its scores.

    Raises:
        MetricError: unknown metric or weights that cannot be downloaded.
        OptionError: `weight`, `kind` or `chunk` is out of range.
    """

    gives_maps = False

    def __init__(
        self,
        metric_name: str,
        kind: Kind,
        weight: float = 1.0,
        device: str = "cpu",
        options: Mapping[str, Any] | None = None,
        chunk: int | None = None,
        flip_rng: torch.Generator | None = None,
    ) -> None:
        check_options(metric_name, kind, weight)
        if chunk is not None and chunk < 1:
            raise OptionError(
                f"reward '{metric_name}': chunk {chunk} is less than 1; give 1 or more"
            )
        self.name = metric_name
        self.kind = kind
        self.weight = weight
        self.metric = create_metric(metric_name, device, **(options or {}))
        self._with_graph = partial(differentiable_metric, metric_name, device, **(options or {}))
        self._chunk = chunk
        self._flip_rng = flip_rng

    def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Scores (B, G) float32, higher is better, NaN where the metric fails; with a graph if the
        candidates have one, as far as the metric is differentiable.

        Args:
            candidates: (B, G, 3, H, W), RGB in [0, 1].
            hr: (B, 3, H, W), RGB in [0, 1].

        Raises:
            MetricError: wrong shapes, or values outside [0, 1].
        """
        check_shapes(self.name, candidates, hr)
        if self._flip_rng is not None:
            candidates, hr = flip_groups(candidates, hr, self._flip_rng)
        images = candidates.flatten(0, 1)
        references = hr.repeat_interleave(candidates.shape[1], dim=0)
        chunk = self._chunk or len(images)
        pairs = zip(images.split(chunk), references.split(chunk), strict=True)
        graph = torch.is_grad_enabled() and candidates.requires_grad
        score = self._differentiable if graph else self.metric
        scores = torch.cat([score(part, reference) for part, reference in pairs])
        return (-scores if self.metric.lower_better else scores).reshape(candidates.shape[:2])

    def _differentiable(self, images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        """Scores (N,) with a graph; the metric is built at the first call."""
        if isinstance(self._with_graph, partial):
            self._with_graph = self._with_graph()
        inputs = (images, references) if self.metric.full_reference else (images,)
        # some metrics write into what they get
        return self._with_graph(*(part.float().clone() for part in inputs)).reshape(-1)


def flip_groups(
    candidates: torch.Tensor, hr: torch.Tensor, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn each group (G, 3, H, W) and its HR picture upside down together, one time in two."""
    flip = draw_rows(torch.rand, (len(hr),), rng) < 0.5
    flip = flip.to(hr.device)[:, None, None, None]
    return (
        torch.where(flip[:, None], candidates.flip(-2), candidates),
        torch.where(flip, hr.flip(-2), hr),
    )
