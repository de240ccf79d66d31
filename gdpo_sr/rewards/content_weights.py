"""How much of a picture is texture: the weights of the attribute-aware reward (GDPO-SR section
3.3).

The grey picture is cut into patches; each is enlarged to 64x64, its Sobel magnitude is put into a
histogram, and the entropy of
the histogram in bits, times the patch's area, is compared with a threshold. Released code:
my_utils/mask.py.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F

ENLARGED = 64
CHUNK = 128
"""Patches worked on at once: their enlarged gradients fit the processor's cache."""
BINS, LOW, HIGH = 512, -5.5, 5.5
GREY_BITS = 15
GREY_WEIGHTS = {"rgb": (9798, 19235, 3735), "bgr": (3735, 19235, 9798)}
"""0.299, 0.587, 0.114 times 2^15: OpenCV's integer weights, so that every level rounds as there."""


def to_grey(images: torch.Tensor, grey: str = "rgb") -> torch.Tensor:
    """Grey pictures (B, H, W) at 8-bit levels in [0, 1], of (B, 3, H, W) RGB in [0, 1].

    `grey="bgr"` swaps the weights of red and blue, as the released code does by mistake.

    Raises:
        ValueError: `grey` is neither "rgb" nor "bgr".
    """
    if grey not in GREY_WEIGHTS:
        raise ValueError(
            f"grey = {grey!r}: use 'rgb', or 'bgr' for the released code's channel swap"
        )
    levels = (images.float() * 255).round().int()
    weights = levels.new_tensor(GREY_WEIGHTS[grey])[:, None, None]
    half = 1 << (GREY_BITS - 1)
    return (((levels * weights).sum(1) + half) >> GREY_BITS).float() / 255


@lru_cache(maxsize=64)
def sobel_of_enlarged(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smoothing and difference matrices (64, length): bilinear enlargement to 64, replicated
    border, Sobel taps.

    All three steps are linear and separable, so the gradients of an enlarged patch P are D_y P
    S_x^T and S_y P D_x^T.
    """
    enlarge = F.interpolate(torch.eye(length)[None], size=ENLARGED, mode="linear")[0].T
    padded = torch.cat([enlarge[:1], enlarge, enlarge[-1:]])
    smooth = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return smooth, padded[2:] - padded[:-2]


def gradient_magnitude(patches: torch.Tensor) -> torch.Tensor:
    """Sobel magnitude of patches (N, h, w) after their enlargement; (N, 64, 64)."""
    smooth_y, diff_y = (m.to(patches.device) for m in sobel_of_enlarged(patches.shape[1]))
    smooth_x, diff_x = (m.to(patches.device) for m in sobel_of_enlarged(patches.shape[2]))
    dx = smooth_y @ patches @ diff_x.T
    dy = diff_y @ patches @ smooth_x.T
    return dx.square_().add_(dy.square_()).sqrt_()


def entropy_bits(magnitudes: torch.Tensor) -> torch.Tensor:
    """Shannon entropy, in bits, of a histogram of each row (N, K) of values >= 0; (N,).

    The histogram has 512 bins over [-5.5, 5.5]; the lower half stays empty. Values above 5.5 are
    not counted.
    """
    n, used = len(magnitudes), BINS // 2
    bins = (magnitudes * (BINS / (HIGH - LOW))).int().clamp_(max=used)
    bins += (used + 1) * torch.arange(n, dtype=torch.int32, device=bins.device)[:, None]
    counts = torch.bincount(bins.flatten(), minlength=n * (used + 1)).view(n, used + 1)
    p = counts[:, :used].float()
    p = p / p.sum(1, keepdim=True).clamp(min=1)
    return -torch.xlogy(p, p).sum(1) / math.log(2)


def patch_complexity(patches: torch.Tensor) -> torch.Tensor:
    """Entropy of the gradient histogram times the area; grey patches (N, h, w) in [0, 1] ->
    (N,).
    """
    area = patches.shape[1] * patches.shape[2]
    return entropy_bits(gradient_magnitude(patches).flatten(1)) * area


def complexity_map(grey: torch.Tensor, patch_size: int = 10) -> torch.Tensor:
    """Complexity of every patch; (B, H, W) -> (B, ceil(H / p), ceil(W / p)). Strips left over at
    the border are patches too.
    """
    b, height, width = grey.shape
    p = patch_size
    out = grey.new_zeros(b, -(-height // p), -(-width // p))
    full_h, full_w = height // p * p, width // p * p
    for y0, y1, ph in ((0, full_h, p), (full_h, height, height - full_h)):
        for x0, x1, pw in ((0, full_w, p), (full_w, width, width - full_w)):
            if y1 > y0 and x1 > x0:
                blocks = grey[:, y0:y1, x0:x1].unfold(1, ph, ph).unfold(2, pw, pw)
                rows, columns = blocks.shape[1:3]
                values = torch.cat(
                    [patch_complexity(part) for part in blocks.reshape(-1, ph, pw).split(CHUNK)]
                )
                out[:, y0 // p : y0 // p + rows, x0 // p : x0 // p + columns] = values.view(
                    b, rows, columns
                )
    return out


@torch.no_grad()
def textured_patches(
    images: torch.Tensor, patch_size: int = 10, threshold: float = 50.0, grey: str = "rgb"
) -> torch.Tensor:
    """Which patches of images (B, 3, H, W), RGB in [0, 1], are textured; bool (B, ceil(H / p),
    ceil(W / p)). Arguments as `texture_ratio`.
    """
    with torch.autocast(images.device.type, enabled=False):
        return complexity_map(to_grey(images, grey), patch_size) > threshold


def texture_map(
    images: torch.Tensor, patch_size: int = 10, threshold: float = 50.0, grey: str = "rgb"
) -> torch.Tensor:
    """The same pixel by pixel: float (B, 1, H, W), 1 where textured, 0 where smooth; its mean is
    `texture_ratio`.
    """
    patches = textured_patches(images, patch_size, threshold, grey).float()
    pixels = patches.repeat_interleave(patch_size, 1).repeat_interleave(patch_size, 2)
    return pixels[:, None, : images.shape[-2], : images.shape[-1]]


def texture_ratio(
    images: torch.Tensor, patch_size: int = 10, threshold: float = 50.0, grey: str = "rgb"
) -> torch.Tensor:
    """Share of the area that is textured, rho_d; the smooth share is rho_s = 1 - rho_d.

    Args:
        images: (B, 3, H, W), RGB in [0, 1].
        patch_size: side of a patch in pixels.
        threshold: a patch is textured if entropy (bits) times its area exceeds this.
        grey: "rgb", or "bgr" for the released code's channel swap.

    Returns:
        (B,) in [0, 1], not rounded.
    """
    height, width = images.shape[-2:]
    textured = textured_patches(images, patch_size, threshold, grey)
    rows = _extents(height, patch_size, images.device)
    columns = _extents(width, patch_size, images.device)
    area = rows[:, None] * columns
    return (textured * area).sum(dim=(1, 2)) / (height * width)


def _extents(length: int, patch: int, device: torch.device) -> torch.Tensor:
    """Length in pixels of every patch along one side."""
    starts = torch.arange(0, length, patch, device=device)
    return (length - starts).clamp(max=patch).float()
