"""Where the base is asked to look like the original, and where its outputs may differ."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gdpo_sr.losses.energy_score import gradients, spread_weight

_AGREE = (0.3, 0.9)
"""Correlations of the teacher's edges with the original's at which the original's share is 0, 1."""
_WINDOW = 9
"""Side in pixels of the square in which an edge has a direction."""


def original_share(hr: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """How much of the target is the original (N,), the rest is the teacher's answer.

    Where the LR picture says little the teacher's edges are not the original's, and aiming at the
    original would only blur. Pictures are (N, 3, H, W) in [-1, 1].
    """
    a, b = (gradients(F.avg_pool2d(images, 2)).flatten(1) for images in (hr, teacher))
    agree = F.cosine_similarity(a, b, dim=1)
    low, high = _AGREE
    return ((agree - low) / (high - low)).clamp(0, 1)


def texture_weight(images: torch.Tensor) -> torch.Tensor:
    """1 on texture without a direction, 0 on smooth areas and along clean edges; (N, 1, H, W).

    An edge whose place depends on the noise looks ragged. Its direction shows in the structure
    tensor: coherence, squared, is 1 if all gradients around a pixel are parallel.
    """
    grey = images.mean(1, keepdim=True)
    across, down = gradients(grey).chunk(2, 1)
    products = torch.cat([across.square(), down.square(), across * down], 1)
    products = F.pad(products, (0, 1, 0, 1), mode="replicate")
    xx, yy, xy = F.avg_pool2d(products, _WINDOW, 1, _WINDOW // 2).split(1, 1)
    coherence = ((xx - yy).square() + 4 * xy.square()) / (xx + yy + 1e-6).square()
    return spread_weight(images, 1.0) * (1 - coherence)
