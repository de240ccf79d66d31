"""Frozen weights in the precision of the passes: autocast casts them anew in every pass, for it
remembers the casts of what is trained alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_CAST = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
"""Layers whose weights autocast rounds; the others compute in float32 under it."""


def cast_frozen(networks: Iterable[nn.Module], precision: str) -> None:
    """Round the layers that nothing trains once and for all; under autocast the same function.

    Args:
        networks: with their adapters, and with `requires_grad` as it stays.
        precision: of the run, "no" leaves all as it is.
    """
    dtype = DTYPES.get(precision)
    if dtype is None:
        return
    for network in networks:
        for module in network.modules():
            own = list(module.parameters(recurse=False))
            if isinstance(module, _CAST) and not any(p.requires_grad for p in own):
                module.to(dtype)
