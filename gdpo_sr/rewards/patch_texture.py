"""Which patches of a grey picture are texture, by the entropy of their gradients (GDPO-SR section
3.3).

A patch is enlarged to 64x64, its Sobel magnitude is put into a histogram, and the entropy of the
histogram in bits, times the patch's area, is compared with a threshold. Released code:
my_utils/mask.py. Bounds and layouts here only save time: what is decided is what that says.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F

ENLARGED = 64
BINS, LOW, HIGH = 512, -5.5, 5.5
"""The lower half of the histogram stays empty; no gradient of grey levels in [0, 1] reaches 5.5."""
BIN_WIDTH = (HIGH - LOW) / BINS
FEW_BINS = 8
"""So many are counted faster by one comparison each."""
GENTLE = 4
"""Bins within which a part of the gradients hardly ever proves a patch textured."""
SAMPLES = 2**18
"""Gradients worked on at once: they fit the processor's cache."""
SPARSE = (4, 2)
"""Every 4th row and 2nd column of an enlarged patch prove most textured patches to be so."""
MARGIN = 0.01
"""Bits by which a bound must exceed the threshold: rounding may move a gradient between bins."""


@lru_cache(maxsize=64)
def sobel_of_enlarged(length: int, every: int) -> tuple[torch.Tensor, ...]:
    """Smoothing (64 / every, length) and differences of bilinear enlargement to 64, replicated
    border, Sobel taps, in units of a bin's width.

    All three steps are linear and separable, so the gradients of an enlarged patch P are D_y P
    S_x^T and S_y P D_x^T. The enlargement is straight between two pixels, so most rows of D repeat
    the one before: it comes as its distinct rows (K, length), K about half of 64, and which of them
    stands at each place, (64 / every,).
    """
    enlarge = F.interpolate(torch.eye(length)[None], size=ENLARGED, mode="linear")[0].T
    padded = torch.cat([enlarge[:1], enlarge, enlarge[-1:]])
    smooth = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    taken = slice(every // 2, None, every)
    steps, place = torch.unique((padded[2:] - padded[:-2])[taken], dim=0, return_inverse=True)
    return smooth[taken], steps / BIN_WIDTH, place


def squared_gradients(patches: torch.Tensor, every: tuple[int, int]) -> torch.Tensor:
    """Squared Sobel magnitude, in widths of a bin, of patches (N, h, w), grey in [0, 1], enlarged.

    `every` takes each so-manieth row and column of the enlarged patch only: (64 / every[0], 64 /
    every[1], N).
    """
    n, height, width = patches.shape
    pixels = patches.permute(1, 2, 0).contiguous()
    smooth_y, steps_y, place_y = _sobel(height, every[0], patches.device)
    smooth_x, steps_x, place_x = _sobel(width, every[1], patches.device)
    dx = smooth_y @ (steps_x @ pixels).flatten(1)
    dy = steps_y @ (smooth_x @ pixels).flatten(1)
    across = dx.square_().view(len(smooth_y), len(steps_x), n).index_select(1, place_x)
    down = dy.square_().view(len(steps_y), len(smooth_x), n).index_select(0, place_y)
    return across.add_(down)


def _sobel(length: int, every: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    return tuple(matrix.to(device) for matrix in sobel_of_enlarged(length, every))


@torch.no_grad()
def gradient_counts(patches: torch.Tensor, every: tuple[int, int] = (1, 1)) -> torch.Tensor:
    """Histogram of the Sobel magnitude of patches; arguments as `squared_gradients`.

    Returns (N, K) for the bins of values from 0 on; those behind the K-th, at most 256, are empty.
    """
    squares = squared_gradients(patches, every).flatten(0, 1)
    used = int(squares.max().sqrt()) + 1 if len(patches) else 1
    return (_counts_of_few if used <= FEW_BINS else _counts_of_many)(squares, used)


def _counts_of_few(squares: torch.Tensor, used: int) -> torch.Tensor:
    """Histogram (N, used) of the roots of (M, N): how many reach each bin, less the next one's."""
    reaching = squares.new_zeros(used + 1, squares.shape[1])
    reaching[0] = len(squares)
    reached = torch.empty_like(squares)
    for bound in range(1, used):
        reaching[bound] = torch.ge(squares, bound**2, out=reached).sum(0)
    return (reaching[:-1] - reaching[1:]).T


def _counts_of_many(squares: torch.Tensor, used: int) -> torch.Tensor:
    """The same by bins (used, N) in memory: neighbours never wait for one counter."""
    n = squares.shape[1]
    places = squares.sqrt_().int().mul_(n).add_(torch.arange(n, device=squares.device).int())
    return torch.bincount(places.flatten(), minlength=used * n).view(used, n).T


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


def steepest(patches: torch.Tensor) -> torch.Tensor:
    """Upper bound of the Sobel magnitude of patches (N, h, w), in widths of a bin; (N,).

    Bilinear enlargement is no steeper than the largest step between neighbours, and the Sobel taps
    4 times a difference over 2 pixels: |dx| <= 8 * w / 64 * step.
    """
    height, width = patches.shape[1:]
    step_x = patches.diff(dim=2, prepend=patches[:, :, :1]).abs().amax((1, 2))
    step_y = patches.diff(dim=1, prepend=patches[:, :1]).abs().amax((1, 2))
    return torch.hypot(step_x * width, step_y * height) * (8 / ENLARGED / BIN_WIDTH)


def is_textured(patches: torch.Tensor, threshold: float) -> torch.Tensor:
    """`patch_complexity` > threshold for patches (N, h, w); bool (N,).

    Where none is as steep as a bin is wide, all gradients fall into the first bin: entropy 0. The
    complexity itself is computed only where neither bound decides, of patches in the order of their
    steepness: those computed together have few bins or many.
    """
    textured = torch.full((len(patches),), threshold < 0, device=patches.device)
    height, order = steepest(patches).sort()
    rough = order[height >= 0.999]
    steep = order[height >= GENTLE]
    textured[steep] = least_complexity(patches[steep]) > threshold
    open_ones = rough[~textured[rough]]
    textured[open_ones] = patch_complexity(patches[open_ones]) > threshold
    return textured
