"""Group normalisation in half precision on a GPU, without leaving half precision.

torch's kernel has a block for each group: at 512 pixels and one picture 32 of them work on what is
the largest part of a restoration (16 of 41 ms on an H200). Under autocast it reads and writes
float32, and it wants channels first, which the convolutions around it turn back. Here sums over the
pixels of each channel are taken in float32, and one kernel applies scale and shift, in any layout.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from gdpo_sr.generators.remembered import modules_of

HALF = (torch.float16, torch.bfloat16)


class HalfNorm(nn.GroupNorm):
    """GroupNorm; half precision on a GPU takes the way above, all else torch's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (x.is_cuda and x.dtype in HALF):
            return super().forward(x)
        with torch.autocast("cuda", enabled=False):
            return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def use_half_norm(networks: Iterable[nn.Module]) -> None:
    """Give the GroupNorm layers of networks this way; weights and names stay."""
    for network in networks:
        for module in modules_of(network, nn.GroupNorm):
            if type(module) is nn.GroupNorm and module.affine:
                module.__class__ = HalfNorm


def group_norm(
    x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """`torch.nn.functional.group_norm` of x (N, C, ...), in the precision and layout of x.

    The variance is the mean square less the square of the mean, both of float32: what cancels there
    is less than what half precision rounded away from x before.
    """
    return _GroupNorm.apply(x, groups, weight, bias, eps)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        groups: int,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        pixels = tuple(range(2, x.ndim))
        kind = torch.promote_types(x.dtype, torch.float32)
        squares = torch.linalg.vector_norm(x, 2, pixels, dtype=kind).square()
        mean = _of_groups(x.mean(pixels, dtype=kind), groups)
        square = _of_groups(squares / (x[0, 0].numel()), groups)
        deviation = (square - mean.square()).clamp_(min=0).add_(eps).sqrt_()
        ctx.groups = groups
        ctx.save_for_backward(x, weight, mean, deviation)
        scale = weight / deviation
        return _scaled(x, scale, bias - mean * scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, deviation = ctx.saved_tensors
        pixels = tuple(range(2, x.ndim))
        total = given.sum(pixels, dtype=mean.dtype)
        product = (given.to(mean.dtype) * x).sum(pixels)
        along = (product - mean * total) / deviation  # of the gradient and the normalised x
        part = _of_groups(weight * along, ctx.groups) / (x[0, 0].numel() * deviation.square())
        level = _of_groups(weight * total, ctx.groups) / (x[0, 0].numel() * deviation)
        rest = _scaled(x, -part, mean * part - level, mean.dtype)
        gradient = _scaled(given, weight / deviation, rest, x.dtype)
        needed = ctx.needs_input_grad
        return (
            gradient if needed[0] else None,
            None,
            along.sum(0).to(weight.dtype) if needed[2] else None,
            total.sum(0).to(weight.dtype) if needed[3] else None,
            None,
        )


def _of_groups(values: torch.Tensor, groups: int) -> torch.Tensor:
    """Values (N, C) of channels -> the mean of the group of each channel, (N, C)."""
    n, channels = values.shape
    means = values.view(n, groups, -1).mean(-1, keepdim=True)
    return means.expand(n, groups, channels // groups).reshape(n, channels)


def _scaled(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """scale * x + shift in one kernel, in the layout of x; both (N, C), or shift like x."""
    scale, shift = (
        v if v.ndim == x.ndim else v.view(*v.shape, *[1] * (x.ndim - 2)) for v in (scale, shift)
    )
    return torch.addcmul(shift, x, scale, out=torch.empty_like(x, dtype=dtype))
