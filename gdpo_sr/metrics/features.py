"""Features of a network that was trained on photographs: the first blocks of EfficientNet-lite0.

They are what `texture_energy` and `feature_distance` compare, as a metric, a reward or a loss; no
model contains them. Where the weights come from is in `assets/features/README.md`. Deeper layers
lose reliability: a shift by a pixel reorders a group of candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

WEIGHTS = Path(__file__).parent.parent / "assets" / "features" / "model.safetensors"
TAPS = (0, 2, 4)
"""Blocks whose outputs are features, after those of the stem. Strides 2, 2, 4, 8."""
CHANNELS = (32, 16, 24, 40)
STRIDES = (1, 2, 1, 2, 1)
"""Of the blocks; the stem's is 2."""


class Features(nn.Module):
    """Pictures (N, 3, H, W) in [-1, 1] -> a list of features (N, CHANNELS[i], h, w).

    Args:
        weights: of every convolution, its batch norm folded in, as `read_weights` gives them.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.stem = _convolution(weights, "stem", 2)
        self.blocks = nn.ModuleList(
            _block(weights, f"blocks.{i}", stride) for i, stride in enumerate(STRIDES)
        )
        self.requires_grad_(False).eval()

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Features of the stem, then of the blocks of TAPS."""
        x = F.relu6(self.stem(images))
        found = [x]
        for i, block in enumerate(self.blocks):
            y = block(x)
            x = x + y if x.shape == y.shape else y
            if i in TAPS:
                found.append(x)
        return found


def read_weights() -> dict[str, torch.Tensor]:
    """The weights in the package, as float32."""
    return {name: value.float() for name, value in load_file(WEIGHTS).items()}


def photo_features(device: str | torch.device = "cpu") -> Features:
    """The network with the weights in the package."""
    return Features(read_weights()).to(device)


def _block(weights: Mapping[str, torch.Tensor], name: str, stride: int) -> nn.Sequential:
    """Inverted residual: widen, depthwise, project."""
    layers: list[nn.Module] = []
    if f"{name}.expand.weight" in weights:
        layers += [_convolution(weights, f"{name}.expand"), nn.ReLU6()]
    layers += [_convolution(weights, f"{name}.depthwise", stride), nn.ReLU6()]
    return nn.Sequential(*layers, _convolution(weights, f"{name}.project"))


def _convolution(weights: Mapping[str, torch.Tensor], name: str, stride: int = 1) -> nn.Conv2d:
    kernel = weights[f"{name}.weight"]
    outputs, inputs, side, _ = kernel.shape
    groups = outputs if inputs == 1 else 1
    layer = nn.Conv2d(
        inputs * groups, outputs, side, stride, side // 2, groups=groups, padding_mode="replicate"
    )
    layer.weight.data, layer.bias.data = kernel, weights[f"{name}.bias"]
    return layer
