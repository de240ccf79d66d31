"""Shared vocabulary: named errors and the small records that pass between layers.

Legend used in every docstring: B images, G candidates per image, C,H,W pixels, c,h,w latent. Images
are RGB in [0, 1]
in data, rewards and metrics, and in [-1, 1] inside the generator.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # commands that only print their help need no torch
    import torch


class GDPOSRError(Exception):
    """Base of every error that a user can mend; its message is one line with the remedy."""

    exit_status = 2


class OptionError(GDPOSRError):
    """An option is misspelt, out of range or contradicts another one."""


class ImageError(GDPOSRError):
    """A picture cannot be read, written or used at its size."""


class DatasetError(GDPOSRError):
    """A folder of pictures is missing, empty or inconsistent."""


class MetricError(GDPOSRError):
    """A metric is unknown or cannot be built on this machine."""


class CheckpointError(GDPOSRError):
    """A model, adapter or training state is missing or of another architecture."""


class ProcessError(GDPOSRError):
    """Another process of the run ended or does not answer."""


class DivergedError(GDPOSRError):
    """Training went wrong so often that it was ended."""

    exit_status = 3


@dataclass
class SRBatch:
    """Low- and high-resolution pictures of one step, each with its own prompt.

    Attributes:
        lr: (B, 3, H / scale, W / scale), RGB in [0, 1].
        hr: (B, 3, H, W), RGB in [0, 1].
        prompts: B prompts; `prompts[b]` belongs to `hr[b]`.
        names: B file stems, for logs and pictures.
    """

    lr: torch.Tensor
    hr: torch.Tensor
    prompts: list[str]
    names: list[str]


@dataclass
class LossOutput:
    """A loss and what to log about it; weighting and accumulation belong to the caller.

    Attributes:
        loss: scalar tensor with a graph.
        logs: detached scalar tensors by name.
    """

    loss: torch.Tensor
    logs: dict[str, torch.Tensor] = field(default_factory=dict)
