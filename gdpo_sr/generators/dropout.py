"""A network as it is used, while it is in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from gdpo_sr.generators.remembered import modules_of


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """Inside, `network` is without the dropout that trains its adapters."""
    found = (
        modules_of(network, nn.Dropout)
        if hasattr(network, "peft_config")
        else [m for m in network.modules() if isinstance(m, nn.Dropout)]
    )
    layers = [m for m in found if m.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()
