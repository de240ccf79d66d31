"""A network as it is used, while it is in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """Inside, `network` is without the dropout that trains its adapters."""
    layers = [m for m in network.modules() if isinstance(m, nn.Dropout) and m.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()
