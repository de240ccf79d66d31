"""Pixel error of a restored picture, the first term of stage 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gdpo_sr.types import LossOutput

_ERRORS = {"mse": F.mse_loss, "l1": F.l1_loss}


def reconstruction_loss(images: torch.Tensor, hr: torch.Tensor, kind: str = "mse") -> LossOutput:
    """Mean over B, C, H, W of the squared or absolute error.

    Args:
        images, hr: (B, 3, H, W) in [-1, 1]; the scale matters for the weight of this term.
        kind: ``mse``, the released code; ``l1``, the paper's text.
    """
    return LossOutput(_ERRORS[kind](images, hr))
