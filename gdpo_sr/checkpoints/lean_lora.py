"""The forward pass of PEFT's LoRA layers with less around the two products.

PEFT casts the input of every layer to the adapter's precision, which autocast undoes at once,
multiplies by the scale in a kernel of its own, and looks for kinds of adapters that this package
never makes. Here a layer computes the same (up to the rounding of one fused product and sum); its
weights, names, merging and saving stay PEFT's.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from peft.tuners.tuners_utils import BaseTunerLayer


class LeanLora:
    """Mixed into the class of a LoRA layer by `make_lean`."""

    def forward(self, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        """As PEFT's for a plain LoRA; what has more goes there."""
        if args or options or self.merged_adapters:
            return super().forward(x, *args, **options)
        modules = self._modules
        result = modules["base_layer"](x)
        if self._disable_adapters:
            return result
        first, second = modules["lora_A"]._modules, modules["lora_B"]._modules
        dropouts = modules["lora_dropout"]._modules
        for name in self.active_adapters:
            down = first.get(name)
            if down is None:
                continue
            given = _as_needed(dropouts[name](x), down.weight)
            low = down(given)
            result = _added(result, second[name](low), self.scaling[name])
        return result


def _as_needed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """In the adapter's precision, unless autocast sees to it."""
    if x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(weight.dtype)


def _added(result: torch.Tensor, more: torch.Tensor, scale: float) -> torch.Tensor:
    """In the precision of `result`."""
    return torch.add(result, more.to(result.dtype), alpha=scale)


def make_lean(layers: Iterable[BaseTunerLayer]) -> None:
    """Give PEFT's LoRA layers the lean forward pass."""
    for layer in layers:
        if not isinstance(layer, LeanLora):
            layer.__class__ = _lean_class(type(layer))


@cache
def _lean_class(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Lean{kind.__name__}", (LeanLora, kind), {})
