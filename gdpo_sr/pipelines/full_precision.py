"""Run a half-precision model in float32 for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def full_precision(*modules: nn.Module) -> Iterator[None]:
    """Every floating-point parameter and buffer in float32; afterwards in its own type again.

    Nothing is lost on the way: float32 holds every half-precision number.
    """
    tensors = [
        tensor
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
        if tensor.is_floating_point()
    ]
    types = [tensor.dtype for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, dtype in zip(tensors, types, strict=True):
            tensor.data = tensor.data.to(dtype)
