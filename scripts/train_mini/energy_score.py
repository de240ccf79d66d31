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


def patch_norm(difference: torch.Tensor, size: int) -> torch.Tensor:
    """Mean Euclidean norm (per value) over size x size patches of a difference (N, C, H, W);
    scalar.
    """
    squares = difference.square().mean(1, keepdim=True)
    if size > 1:
        squares = F.avg_pool2d(squares, size, stride=max(size // 2, 1))
    return (squares + 1e-6).sqrt().mean()


def gradients(images: torch.Tensor) -> torch.Tensor:
    """Horizontal and vertical differences, stacked over channels: (N, 2C, H-1, W-1)."""
    right = images[..., :-1, 1:] - images[..., :-1, :-1]
    down = images[..., 1:, :-1] - images[..., :-1, :-1]
    return torch.cat([right, down], 1)


def energy_score(
    first: torch.Tensor,
    second: torch.Tensor,
    truth: torch.Tensor,
    sizes: tuple[int, ...] = (1, 4, 16),
    beta: float = 1.0,
) -> torch.Tensor:
    """Energy score of two outputs (N, C, H, W) against the truth, averaged over patch sizes;
    scalar.
    """
    total = truth.new_zeros(())
    for size in sizes:
        error = patch_norm(first - truth, size) + patch_norm(second - truth, size)
        total = total + 0.5 * (error - beta * patch_norm(first - second, size))
    return total / len(sizes)
