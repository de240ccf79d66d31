"""Any differentiable metric of pyiqa as a loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gdpo_sr.metrics.registry import differentiable_metric, trial_pictures
from gdpo_sr.types import LossOutput, MetricError
from gdpo_sr.utils.json_file import reason_of

_EXAMPLES = "lpips-vgg, ms_ssim, ssim, gmsd, nlpd"


class PerceptualLoss(nn.Module):
    """Mean score of a metric, its sign turned where higher is better.

    Args:
        name: `psnr_y`, `ssim_y` or any name of pyiqa.
        size: side in pixels of the pictures of training, at which the metric is tried out.
        device: where it is computed.
        options: for pyiqa.

    Raises:
        MetricError: unknown metric, missing weights, or no gradient at this size.
    """

    def __init__(
        self,
        name: str,
        size: int,
        device: str = "cpu",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        metric: Any = differentiable_metric(name, device, **(options or {}))
        self.metric = metric
        self.lower_better = bool(metric.lower_better)
        self.full_reference = metric.metric_mode == "FR"
        self._check_gradient(size, device)

    def forward(self, images: torch.Tensor, hr: torch.Tensor) -> LossOutput:
        """Loss of pictures (B, 3, H, W) against `hr`, both RGB in [0, 1], with a graph.

        logs: `score`, the metric's mean.
        """
        with torch.autocast(images.device.type, enabled=False):
            inputs = (images, hr) if self.full_reference else (images,)
            # some metrics write into what they get
            score = self.metric(*(part.float().clone() for part in inputs)).mean()
        return LossOutput(score if self.lower_better else -score, {"score": score.detach()})

    def _check_gradient(self, size: int, device: str) -> None:
        """Try it on pictures that differ by noise."""
        hr, images = (part.to(device) for part in trial_pictures(size))
        images.requires_grad_()
        try:
            loss = self(images, hr).loss
            gradient = torch.autograd.grad(loss, images)[0]
        except Exception as error:  # pyiqa names no class: too small a picture, or numpy inside
            raise MetricError(self._unusable(size, reason_of(error))) from error
        if not gradient.isfinite().all() or not gradient.any():
            raise MetricError(self._unusable(size, "its gradient is 0 or not finite"))

    def _unusable(self, size: int, reason: str) -> str:
        return (
            f"metric '{self.name}' cannot be a loss on pictures of {size} px ({reason}): choose a "
            f"differentiable one, such as {_EXAMPLES}, or a larger gt_size"
        )
