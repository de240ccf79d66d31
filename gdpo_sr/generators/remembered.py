"""Modules and tensors of a network, remembered: to walk all of a UNet's costs 37 ms, to use those
that were found less than one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

Kind = TypeVar("Kind", bound=nn.Module)
_KNOWN: WeakKeyDictionary[nn.Module, dict[tuple, list]] = WeakKeyDictionary()


def modules_of(network: nn.Module, kind: type[Kind]) -> list[Kind]:
    """Those of `kind` inside a network that carries adapters, which alone change its modules."""
    key = (kind, *getattr(network, "peft_config", ()))
    known = _KNOWN.setdefault(network, {})
    if key not in known:
        known[key] = [module for module in network.modules() if isinstance(module, kind)]
    return known[key]


def tensors_of(network: nn.Module) -> list[torch.Tensor]:
    """Its parameters and buffers."""
    key = (torch.Tensor, *getattr(network, "peft_config", ()))
    known = _KNOWN.setdefault(network, {})
    if key not in known:
        known[key] = [*network.parameters(), *network.buffers()]
    return known[key]


def forget(network: nn.Module) -> None:
    """Call this when adapters were added or removed."""
    _KNOWN.pop(network, None)


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
