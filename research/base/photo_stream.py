"""Crops of photographs and their degraded copies, drawn in a fixed order."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from gdpo_sr.config.degradation import DegradationOptions
from gdpo_sr.data.degradations import RealESRGANDegradation
from gdpo_sr.data.online_dataset import OnlineDataset

LIGHT_PROB = 0.4
"""Share of batches with camera-like degradation; the rest is degraded as in GDPO-SR."""


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
        self.degrade = RealESRGANDegradation(DegradationOptions(light_prob=LIGHT_PROB))
        self.device = device
        self.drawn = drawn

    def next_crops(self, count: int) -> torch.Tensor:
        """The next (count, 3, H, W)."""
        items = [self.dataset[self.drawn + i]["hr"] for i in range(count)]
        self.drawn += count
        return torch.stack(items).to(self.device) * 2 - 1

    def enlarged_lr(self, hr: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Degraded hr (N, 3, H, W), resized back to its size."""
        lr = self.degrade((hr + 1) / 2, rng)
        return F.interpolate(lr, size=hr.shape[-2:], mode="bicubic").clamp(0, 1) * 2 - 1
