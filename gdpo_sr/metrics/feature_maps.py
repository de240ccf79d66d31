"""How two pictures differ, place by place, in the features of `gdpo_sr.metrics.features`.

Maps, because a network says little of a cut-out of eight pixels: a cell of a picture gets its part
of the map. Both measures are 0 for equal pictures, smaller for better ones, and differentiable.
Neither is safe alone: blur makes `feature_distance` better, noise and sharpening `texture_energy`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from gdpo_sr.metrics.features import photo_features
from gdpo_sr.types import MetricError

WINDOW = 5
"""Side of the windows of texture energy, in features."""
SOFT = 1e-3
"""Share of the variance of the HR picture's features below which a difference counts little."""
_TINY = 1e-6


def texture_map(x: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """(s_x - s_hr)^2 / (s_x^2 + s_hr^2 + SOFT var(hr)), mean over channels, of one layer.

    s is the standard deviation in windows, var that of a channel of `hr` over its picture.

    Args:
        x: features (B, G, C, h, w).
        hr: of the HR pictures, (B, 1, C, h, w).

    Returns:
        (B, G, h, w) in [0, 1).
    """
    a, b = local_variance(x), local_variance(hr)
    soft = SOFT * hr.var((-2, -1), correction=0, keepdim=True)
    return ((a.sqrt() - b.sqrt()).square() / (a + b + soft)).mean(-3)


def local_variance(x: torch.Tensor) -> torch.Tensor:
    """Variance in windows (B, G, C, h, w), a little above 0 so that its root has a gradient."""
    flat = x.flatten(0, 1)
    flat = flat - flat.mean((-2, -1), keepdim=True)  # else squares of large means cancel
    variance = _window_mean(flat.square()) - _window_mean(flat).square()
    return (variance.clamp(min=0) + _TINY).unflatten(0, x.shape[:2])


def _window_mean(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, WINDOW, 1, WINDOW // 2, count_include_pad=False)


def distance_map(x: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """|x / |x| - hr / |hr||^2 of every place's vector of features, as LPIPS has it; shapes as
    `texture_map`, values in [0, 4].
    """
    return (normalised(x) - normalised(hr)).square().sum(-3)


def normalised(x: torch.Tensor) -> torch.Tensor:
    """Every place's vector of features (..., C, h, w) at length 1."""
    return x * torch.rsqrt(x.square().sum(-3, keepdim=True) + _TINY)


LayerMap = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
FEATURE_METRICS: dict[str, LayerMap] = {
    "texture_energy": texture_map,
    "feature_distance": distance_map,
}
"""By the names under which options files and evaluate.py know them."""


class FeatureMap:
    """One of FEATURE_METRICS on pictures.

    Args:
        name: which.
        device: where it is computed.

    Raises:
        MetricError: unknown name.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        if name not in FEATURE_METRICS:
            raise MetricError(f"no metric '{name}' of features: {', '.join(FEATURE_METRICS)}")
        self.layer_map = FEATURE_METRICS[name]
        self.network = photo_features(device).to(memory_format=torch.channels_last)

    def maps(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Difference of candidates (B, G, 3, H, W) from hr (B, 3, H, W), RGB in [0, 1]: the sum
        over layers, (B, G, H / 2, W / 2), lower is better.
        """
        ours = self._features(candidates)
        theirs = self._features(hr[:, None])
        layers = [self.layer_map(x, y) for x, y in zip(ours, theirs, strict=True)]
        size = layers[0].shape[-2:]
        return torch.stack([F.interpolate(layer, size) for layer in layers]).sum(0)

    def _features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Of pictures (B, G, 3, H, W), each layer (B, G, C, h, w)."""
        device = next(self.network.parameters()).device
        flat = (255 * images.to(device).flatten(0, 1) - 127) / 128
        found = self.network(flat.to(memory_format=torch.channels_last))
        return [f.unflatten(0, images.shape[:2]) for f in found]

    def __call__(self, images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        """Scores (N,) of images (N, 3, H, W) against references of the same shape."""
        return self.maps(images[:, None], references).mean((1, 2, 3))
