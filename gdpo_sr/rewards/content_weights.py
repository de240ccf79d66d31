"""How much of a picture is texture: the weights of the attribute-aware reward (GDPO-SR section
3.3).

The grey picture is cut into patches; each is enlarged to 64x64, its Sobel magnitude is put into a
histogram, and the entropy of
the histogram in bits, times the patch's area, is compared with a threshold. Released code:
my_utils/mask.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

import torch
import torch.nn.functional as F

ENLARGED = 64
BINS, LOW, HIGH = 512, -5.5, 5.5
USED = BINS // 2
"""Bins of values >= 0; the lower half of the histogram stays empty. No gradient of grey levels in
[0, 1] reaches 5.5."""
BIN_WIDTH = (HIGH - LOW) / BINS
SAMPLES = 2**18
"""Gradients worked on at once: they fit the processor's cache."""
SPARSE = (4, 2)
"""Every 4th row and 2nd column of an enlarged patch prove most textured patches to be so."""
MARGIN = 0.01
"""Bits by which a bound must exceed the threshold: rounding may move a gradient between bins."""
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
    levels = (images.float() * 255).round_().clamp_(0, 255)
    red, green, blue = GREY_WEIGHTS[grey]
    half = 1 << (GREY_BITS - 1)  # all of it is exact in float32: integers below 2^24
    total = levels[:, 0] * red + levels[:, 1] * green + levels[:, 2] * blue + half
    return (total / (1 << GREY_BITS)).floor_() / 255


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


def gradient_counts(patches: torch.Tensor, every: tuple[int, int] = (1, 1)) -> torch.Tensor:
    """Histogram of the Sobel magnitude of patches (N, h, w), grey in [0, 1], after enlargement.

    `every` takes each so-manieth row and column of the enlarged patch only. Returns integers
    (N, 256) of values from 0 on.
    """
    n, height, width = patches.shape
    smooth_y, diff_y = (m[every[0] // 2 :: every[0]] for m in _sobel(height, patches.device))
    smooth_x, diff_x = (m[every[1] // 2 :: every[1]] for m in _sobel(width, patches.device))
    rows, columns = len(diff_y), len(diff_x)
    side_by_side = patches.transpose(0, 1).reshape(height, n * width)
    dx = (smooth_y @ side_by_side).view(rows * n, width) @ diff_x.T
    dy = (diff_y @ side_by_side).view(rows * n, width) @ smooth_x.T
    magnitude = dx.square_().addcmul_(dy, dy).sqrt_()
    bins = magnitude.div_(BIN_WIDTH).int().view(rows, n, columns)
    bins += USED * torch.arange(n, dtype=torch.int32, device=bins.device)[:, None]
    return torch.bincount(bins.flatten(), minlength=n * USED).view(n, USED)


def _sobel(length: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    return tuple(matrix.to(device) for matrix in sobel_of_enlarged(length))


def entropy_bits(counts: torch.Tensor) -> torch.Tensor:
    """Shannon entropy, in bits, of histograms (N, K); (N,)."""
    counts = counts.float()
    total = counts.sum(1)
    return (total.log() - torch.xlogy(counts, counts).sum(1) / total) / math.log(2)


def least_entropy_bits(counts: torch.Tensor, total: int) -> torch.Tensor:
    """Lower bound of the entropy of `total` values of which only some are counted, (N, K); (N,).

    Entropy is concave in the missing values, so it is least where all of them fall into one bin,
    and that is the fullest.
    """
    missing = total - counts.sum(1, keepdim=True)
    return entropy_bits(counts.scatter_add(1, counts.argmax(1, keepdim=True), missing))


def patch_complexity(patches: torch.Tensor) -> torch.Tensor:
    """Entropy of the gradient histogram times the area; grey patches (N, h, w) in [0, 1] ->
    (N,).
    """
    parts = patches.split(SAMPLES // ENLARGED**2)
    area = patches.shape[1] * patches.shape[2]
    return torch.cat([entropy_bits(gradient_counts(part)) for part in parts]) * area


def least_complexity(patches: torch.Tensor) -> torch.Tensor:
    """Lower bound of `patch_complexity`, from a part of the gradients."""
    total, share = ENLARGED**2, SPARSE[0] * SPARSE[1]
    parts = patches.split(SAMPLES * share // total)
    bounds = [least_entropy_bits(gradient_counts(part, SPARSE), total) for part in parts]
    return (torch.cat(bounds) - MARGIN) * patches.shape[1] * patches.shape[2]


def surely_flat(patches: torch.Tensor) -> torch.Tensor:
    """Patches (N, h, w) whose gradients must all fall into the first bin (entropy 0); bool (N,).

    Bilinear enlargement is no steeper than the largest step between neighbours, and the Sobel taps
    4 times a difference over 2 pixels: |dx| <= 8 * w / 64 * step.
    """
    height, width = patches.shape[1:]
    step_x = patches.diff(dim=2, prepend=patches[:, :, :1]).abs().amax((1, 2))
    step_y = patches.diff(dim=1, prepend=patches[:, :1]).abs().amax((1, 2))
    steepest = torch.hypot(step_x * width, step_y * height) * 8 / ENLARGED
    return steepest < 0.999 * BIN_WIDTH


def is_textured(patches: torch.Tensor, threshold: float) -> torch.Tensor:
    """`patch_complexity` > threshold for patches (N, h, w); bool (N,).

    The complexity itself is computed only where neither bound decides.
    """
    textured = torch.full((len(patches),), threshold < 0, device=patches.device)
    rough = torch.nonzero(~surely_flat(patches))[:, 0]
    textured[rough] = least_complexity(patches[rough]) > threshold
    open_ones = rough[~textured[rough]]
    textured[open_ones] = patch_complexity(patches[open_ones]) > threshold
    return textured


def _for_patches(
    function: Callable[[torch.Tensor], torch.Tensor], grey: torch.Tensor, patch_size: int
) -> torch.Tensor:
    """What `function` says of patches (N, h, w), in their places: (B, ceil(H / p), ceil(W / p)).

    Strips left over at the border are patches too.
    """
    height, width = grey.shape[1:]
    rows = []
    for y0, y1, high in _strips(height, patch_size):
        row = []
        for x0, x1, wide in _strips(width, patch_size):
            blocks = grey[:, y0:y1, x0:x1].unfold(1, high, high).unfold(2, wide, wide)
            row.append(function(blocks.reshape(-1, high, wide)).view(blocks.shape[:3]))
        rows.append(torch.cat(row, 2))
    return torch.cat(rows, 1)


def _strips(length: int, patch: int) -> list[tuple[int, int, int]]:
    """Start, stop and patch side of the whole patches and of the rest, where there are any."""
    full = length // patch * patch
    parts = ((0, full, patch), (full, length, length - full))
    return [part for part in parts if part[1] > part[0]]


def complexity_map(grey: torch.Tensor, patch_size: int = 10) -> torch.Tensor:
    """Complexity of every patch of grey pictures; (B, H, W) -> (B, ceil(H / p), ceil(W / p))."""
    return _for_patches(patch_complexity, grey, patch_size)


@torch.no_grad()
def textured_patches(
    images: torch.Tensor, patch_size: int = 10, threshold: float = 50.0, grey: str = "rgb"
) -> torch.Tensor:
    """Which patches of images (B, 3, H, W), RGB in [0, 1], are textured; bool (B, ceil(H / p),
    ceil(W / p)). Arguments as `texture_ratio`.
    """
    with torch.autocast(images.device.type, enabled=False):
        decide = partial(is_textured, threshold=threshold)
        return _for_patches(decide, to_grey(images, grey), patch_size)


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
