"""How much of a picture is texture: the weights of the attribute-aware reward (GDPO-SR section
3.3).

The grey picture is cut into patches, and `patch_texture` says which of them are texture.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from gdpo_sr.rewards.patch_texture import is_textured, patch_complexity

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
    ceil(W / p)). Arguments as `texture_share`.
    """
    with torch.autocast(images.device.type, enabled=False):
        decide = partial(is_textured, threshold=threshold)
        return _for_patches(decide, to_grey(images, grey), patch_size)


def texture_share(
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
