"""Energy score: a proper scoring rule, so its minimum is the true conditional distribution,
diversity included.

For two outputs x, x' of one LR picture and the true picture y: (|x - y| + |x' - y|) / 2 - beta |x -
x'| / 2 (Gneiting and
Raftery, 2007), with Euclidean norms over patches. With beta = 0 the outputs collapse to one
restoration; with beta = 1 their
spread matches the uncertainty that the LR picture leaves.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def patch_mean(values: torch.Tensor, size: int) -> torch.Tensor:
    """Mean over size x size patches at half-patch strides; (N, 1, H, W) -> (N, 1, h, w)."""
    return F.avg_pool2d(values, size, stride=max(size // 2, 1)) if size > 1 else values


def patch_norm(difference: torch.Tensor, size: int) -> torch.Tensor:
    """Euclidean norm per value of a difference (N, C, H, W) over patches; (N, 1, h, w)."""
    squares = difference.square().mean(1, keepdim=True)
    return (patch_mean(squares, size) + 1e-6).sqrt()


def spread_weight(truth: torch.Tensor, beta: float, size: int = 8) -> torch.Tensor:
    """beta where the true picture is textured, down to 0 where it is smooth; (N, 1, H, W).

    Textured means a standard deviation of the grey value of 10 levels of 255 around a pixel. In
    smooth
    areas the score then has a single answer, the mean: a viewer takes any spread there for noise.
    """
    grey = truth.mean(1, keepdim=True)
    window = {"kernel_size": size + 1, "stride": 1, "padding": size // 2}
    mean = F.avg_pool2d(grey, **window, count_include_pad=False)
    square = F.avg_pool2d(grey.square(), **window, count_include_pad=False)
    deviation = (square - mean.square()).clamp(min=0).sqrt() * 127.5
    return beta * (deviation / 10).clamp(max=1)


def gradients(images: torch.Tensor) -> torch.Tensor:
    """Horizontal and vertical differences, stacked over channels: (N, 2C, H-1, W-1)."""
    right = images[..., :-1, 1:] - images[..., :-1, :-1]
    down = images[..., 1:, :-1] - images[..., :-1, :-1]
    return torch.cat([right, down], 1)


def energy_score(
    first: torch.Tensor,
    second: torch.Tensor,
    truth: torch.Tensor,
    beta: torch.Tensor,
    sizes: tuple[int, ...] = (1, 4, 16),
) -> torch.Tensor:
    """Energy score of two outputs (N, C, H, W) against the truth, averaged over patch sizes;
    scalar.

    `beta` (N, 1, H, W) weighs the spread per pixel.
    """
    total = truth.new_zeros(())
    for size in sizes:
        error = patch_norm(first - truth, size) + patch_norm(second - truth, size)
        spread = patch_mean(beta, size) * patch_norm(first - second, size)
        total = total + 0.5 * (error - spread).mean()
    return total / len(sizes)
