"""Crops of photographs and their degraded copies, drawn in a fixed order."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from gdpo_sr.config.degradation import DegradationOptions, light_degradation
from gdpo_sr.data.degradations import RealESRGANDegradation
from gdpo_sr.data.online_dataset import OnlineDataset

CAMERA_SHARE = 0.6
"""Of the batches; the rest is degraded as in GDPO-SR."""
CAMERA_BLUR = (0.5, 4.0)
"""Widths in HR pixels: up to a lens out of focus. Else as `light_degradation`."""


class PhotoStream:
    """HR crops and degraded pictures in [-1, 1].

    Args:
        photos: folder of photographs.
        crop: side of a crop in pixels.
        seed: of the order of the crops; with it, draw number n is always the same crop.
        device: where the pictures go.
        drawn: draws already made, to go on after a stop.
    """

    def __init__(
        self, photos: Path, crop: int, seed: int, device: str = "cpu", drawn: int = 0
    ) -> None:
        self.dataset = OnlineDataset(str(photos), crop, seed)
        self._heavy = RealESRGANDegradation(DegradationOptions())
        self._camera = RealESRGANDegradation(_camera())
        self.device = device
        self.drawn = drawn

    def next_crops(self, count: int) -> torch.Tensor:
        """The next (count, 3, H, W)."""
        items = [self.dataset[self.drawn + i]["hr"] for i in range(count)]
        self.drawn += count
        return torch.stack(items).to(self.device) * 2 - 1

    def degrade(self, hr: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """LR pictures (N, 3, H/4, W/4) of hr in [0, 1]; a batch is degraded in one of two ways."""
        camera = float(torch.rand(1, generator=rng)) < CAMERA_SHARE
        return (self._camera if camera else self._heavy)(hr, rng)

    def enlarged_lr(self, hr: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Degraded hr (N, 3, H, W), resized back to its size."""
        lr = self.degrade((hr + 1) / 2, rng)
        return F.interpolate(lr, size=hr.shape[-2:], mode="bicubic").clamp(0, 1) * 2 - 1


def _camera() -> DegradationOptions:
    light = light_degradation()
    first = light.first.model_copy(update={"blur_sigma": CAMERA_BLUR})
    return light.model_copy(update={"first": first})
