"""Bicubic resizing that computes any window of the result, without the rest of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from gdpo_sr.types import ImageError, OptionError

SHARPNESS = -0.75  # parameter a of the cubic, as in torch.nn.functional.interpolate


@dataclass(frozen=True)
class Frame:
    """The asked output: height x width pixels around the centre of the source, `scale` times as
    large in both directions; what the frame cannot hold is cropped, nothing is stretched.
    """

    height: int
    width: int
    scale: float


def frame_for(
    height: int,
    width: int,
    scale: float = 4,
    size: tuple[int, int] | None = None,
    long_side: int | None = None,
) -> Frame:
    """Output frame of a source of height x width pixels.

    Args:
        height, width: of the source.
        scale: output side divided by source side, used where neither of the others is given.
        size: (H, W) of the output; the source is enlarged until it covers it, then cropped.
        long_side: the longer side of the output.

    Raises:
        OptionError: a size that is not positive.
    """
    if min((1, *(size or ()), 1 if long_side is None else long_side)) < 1:
        raise OptionError(f"size = {size}, long_side = {long_side}: use 1 pixel or more")
    if size is not None:
        return Frame(*size, max(size[0] / height, size[1] / width))
    if long_side is not None:
        scale = long_side / max(height, width)
    return Frame(max(1, round(height * scale)), max(1, round(width * scale)), scale)


def too_large(frame: Frame) -> ImageError:
    """For a result that does not fit into memory."""
    return ImageError(
        f"there is no memory for a result of {frame.width}x{frame.height}; ask for a smaller one"
    )


class ResizedView:
    """A source picture at another size, computed window by window.

    At integer scales it is ``interpolate(mode="bicubic")``; below 1 the cubic is widened, so that
    fine patterns do not alias.

    Args:
        source: (C, h, w) in [0, 1], any device.
        frame: the size of the result.
    """

    def __init__(self, source: torch.Tensor, frame: Frame) -> None:
        self.source, self.frame = source, frame
        self._rows = _taps(frame.height, source.shape[-2], frame.scale)
        self._columns = _taps(frame.width, source.shape[-1], frame.scale)

    def window(self, top: int, bottom: int, left: int, right: int) -> torch.Tensor:
        """(C, bottom - top, right - left) in [0, 1]; what lies outside the frame repeats its
        border.
        """
        rows, row_weights = _part(self._rows, top, bottom)
        columns, column_weights = _part(self._columns, left, right)
        first, last = int(rows.min()), int(rows.max()) + 1
        strip = _weighted(self.source[..., first:last, :], -1, columns, column_weights)
        return _weighted(strip, -2, rows - first, row_weights).clamp(0, 1)

    def whole(self) -> torch.Tensor:
        """(C, H, W), all of it."""
        return self.window(0, self.frame.height, 0, self.frame.width)


Taps = tuple[torch.Tensor, torch.Tensor]
"""For each output position K source positions and their weights, (n, K) both."""


def enlarge(image: torch.Tensor, scale: float) -> torch.Tensor:
    """Bicubic resize of one picture (3, h, w) in [0, 1]."""
    return ResizedView(image, frame_for(*image.shape[-2:], scale)).whole()


def _taps(size: int, source_size: int, scale: float) -> Taps:
    stretch = max(1.0, 1 / scale)
    reach = math.ceil(2 * stretch)
    centres = (torch.arange(size, dtype=torch.float64) + 0.5 - size / 2) / scale
    centres = centres + source_size / 2 - 0.5
    offsets = torch.arange(1 - reach, reach + 1)
    positions = centres.floor().long()[:, None] + offsets
    weights = _cubic((positions - centres[:, None]) / stretch)
    weights = weights / weights.sum(1, keepdim=True)
    return positions.clamp(0, source_size - 1), weights.float()


def _cubic(distance: torch.Tensor) -> torch.Tensor:
    """Keys' kernel with parameter SHARPNESS."""
    x, a = distance.abs(), SHARPNESS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _part(taps: Taps, start: int, stop: int) -> Taps:
    wanted = torch.arange(start, stop).clamp(0, len(taps[0]) - 1)
    return taps[0][wanted], taps[1][wanted]


def _weighted(
    image: torch.Tensor, axis: int, positions: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Weighted sum of K shifted copies along one axis of (C, h, w)."""
    positions, weights = positions.to(image.device), weights.to(image)
    total = None
    for place, weight in zip(positions.unbind(1), weights.unbind(1), strict=True):
        copy = image.index_select(axis, place) * (weight[:, None] if axis == -2 else weight)
        total = copy if total is None else total.add_(copy)
    return total
