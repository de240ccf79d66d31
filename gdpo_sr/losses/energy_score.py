"""Energy score: a proper scoring rule, so its minimum is the true distribution of pictures given
the LR picture, diversity included.

For two outputs x, x' of one LR picture and the true picture y: (|x - y| + |x' - y|) / 2 - beta / 2
|x - x'| (Gneiting and Raftery, 2007), with Euclidean norms over patches. With beta = 0 the outputs
collapse to one restoration; with beta = 1 their spread matches what the LR picture leaves open.

Pictures are (N, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gdpo_sr.types import LossOutput

Pair = tuple[torch.Tensor, torch.Tensor]
PIXEL_SIZES = (1, 4, 16)
GRADIENT_SIZES = (2, 8)
LATENT_SIZES = (1, 4)
LATENT_WEIGHT = 0.03
TEXTURED = 10 / 127.5  # deviation of the grey value from which on a place counts as textured
_FLOOR = 1e-6  # under the root, so that the gradient is finite where two pictures agree


def energy_score_loss(
    images: Pair, hr: torch.Tensor, latents: Pair, hr_latents: torch.Tensor, beta: float
) -> LossOutput:
    """Energy score of pixels, of their gradients and, lightly, of the latents.

    Args:
        images: two restorations (N, 3, H, W) of each LR picture, not clamped.
        hr: the true pictures (N, 3, H, W).
        latents: of the two restorations (N, c, h, w).
        hr_latents: (N, c, h, w) of the true pictures.
        beta: weight of the difference where `hr` is textured; it falls to 0 where `hr` is smooth.

    Returns:
        scalar loss; logs: `pixels`, `gradients`, `latents`.
    """
    weight = spread_weight(hr, beta)
    coarse = F.avg_pool2d(weight, hr.shape[-1] // hr_latents.shape[-1])
    edges = (gradients(images[0]), gradients(images[1]))
    parts = {
        "pixels": energy_score(images, hr, weight, PIXEL_SIZES),
        "gradients": energy_score(edges, gradients(hr), weight[..., :-1, :-1], GRADIENT_SIZES),
        "latents": energy_score(latents, hr_latents, coarse, LATENT_SIZES),
    }
    loss = parts["pixels"] + parts["gradients"] + LATENT_WEIGHT * parts["latents"]
    return LossOutput(loss, {name: part.detach() for name, part in parts.items()})


def energy_score(
    outputs: Pair, truth: torch.Tensor, beta: torch.Tensor, sizes: tuple[int, ...] = (1,)
) -> torch.Tensor:
    """Scalar energy score of two outputs (N, C, H, W), averaged over sides of patches.

    `beta` (N, 1, H, W) weighs the difference of the two per pixel.
    """
    first, second = outputs
    scores = []
    for size in sizes:
        error = patch_norm(first - truth, size) + patch_norm(second - truth, size)
        spread = patch_mean(beta, size) * patch_norm(first - second, size)
        scores.append(0.5 * (error - spread).mean())
    return torch.stack(scores).mean()


def patch_mean(values: torch.Tensor, size: int) -> torch.Tensor:
    """Mean over size x size patches at half-patch strides; (N, 1, H, W) -> (N, 1, h, w)."""
    return F.avg_pool2d(values, size, stride=max(size // 2, 1)) if size > 1 else values


def patch_norm(difference: torch.Tensor, size: int) -> torch.Tensor:
    """Root mean square over channels and patches; (N, C, H, W) -> (N, 1, h, w)."""
    squares = difference.square().mean(1, keepdim=True)
    return (patch_mean(squares, size) + _FLOOR).sqrt()


def spread_weight(truth: torch.Tensor, beta: float, size: int = 8) -> torch.Tensor:
    """beta where the true picture is textured, down to 0 where it is smooth; (N, 1, H, W).

    Textured means a standard deviation of the grey value of 10 levels of 255 around a pixel. In
    smooth areas the score then has a single answer, since a viewer takes any spread there for
    noise.
    """
    grey = truth.mean(1, keepdim=True)
    moments = torch.cat([grey, grey.square()], 1)
    means = F.avg_pool2d(moments, size + 1, 1, padding=size // 2, count_include_pad=False)
    mean, square = means.split(1, dim=1)
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    return beta * (deviation / TEXTURED).clamp(max=1)


def gradients(images: torch.Tensor) -> torch.Tensor:
    """Horizontal and vertical differences, stacked over channels: (N, 2C, H-1, W-1)."""
    right = images[..., :-1, 1:] - images[..., :-1, :-1]
    down = images[..., 1:, :-1] - images[..., :-1, :-1]
    return torch.cat([right, down], 1)
