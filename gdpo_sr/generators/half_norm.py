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
        given = x, self.num_groups, self.weight, self.bias, self.eps
        if not torch.is_autocast_enabled("cuda"):
            return group_norm(*given)
        with torch.autocast("cuda", enabled=False):
            return group_norm(*given)


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
    if torch.is_grad_enabled():
        return _GroupNorm.apply(x, groups, weight, bias, eps)
    return _normalised(x, groups, weight, bias, eps)[0]


def _normalised(
    x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The result, and the means and inverse deviations (N, groups, 1); by few kernels, for each
    costs the host as much as a large one.
    """
    pixels, count = tuple(range(2, x.ndim)), x[0, 0].numel()
    sums = x.new_empty(2, *x.shape[:2], dtype=torch.promote_types(x.dtype, torch.float32))
    torch.mean(x, pixels, dtype=sums.dtype, out=sums[0])
    torch.linalg.vector_norm(x, 2, pixels, dtype=sums.dtype, out=sums[1])
    sums[1].square_()
    mean, square = sums.view(2, len(x), groups, -1).mean(-1, keepdim=True)
    variance = torch.sub(square, mean.square(), alpha=count).clamp_(min=0)  # times the pixels
    inverse = variance.add_(count * eps).rsqrt_().mul_(count**0.5)
    scale = inverse * weight.view(groups, -1)
    shift = torch.addcmul(bias.view(groups, -1), mean, scale, value=-1)
    y = _scaled(x, scale.flatten(1), shift.flatten(1))
    return y, mean, inverse


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
        y, mean, inverse = _normalised(x, groups, weight, bias, eps)
        ctx.save_for_backward(x, weight, mean, inverse)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        pixels, (n, groups, _) = tuple(range(2, x.ndim)), mean.shape
        weights = weight.view(groups, -1)
        total = given.sum(pixels, dtype=mean.dtype).view(n, groups, -1)
        product = (given.to(mean.dtype) * x).sum(pixels).view(n, groups, -1)
        along = (product - mean * total) * inverse  # of the gradient and the normalised x
        count = x[0, 0].numel()
        part = (weights * along).mean(-1, keepdim=True) * inverse.square() / count
        level = (weights * total).mean(-1, keepdim=True) * inverse / count
        each = torch.ones_like(total)  # channel of a group
        slope, shift = (each * v for v in (-part, mean * part - level))
        rest = _scaled(x, slope.flatten(1), shift.flatten(1), mean.dtype)
        gradient = _scaled(given, (inverse * weights).flatten(1), rest, x.dtype)
        needed = ctx.needs_input_grad
        return (
            gradient if needed[0] else None,
            None,
            along.sum(0).flatten().to(weight.dtype) if needed[2] else None,
            total.sum(0).flatten().to(weight.dtype) if needed[3] else None,
            None,
        )


def _scaled(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """scale * x + shift in one kernel, in the layout of x; both (N, C), or shift like x."""
    scale, shift = (
        v if v.ndim == x.ndim else v.view(*v.shape, *[1] * (x.ndim - 2)) for v in (scale, shift)
    )
    return torch.addcmul(shift, x, scale, out=torch.empty_like(x, dtype=dtype))
