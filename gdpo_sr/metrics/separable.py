"""Windows of pyiqa's metrics in two passes: the same numbers in a tenth of the time.

SSIM and NIQE weigh their neighbourhoods by a Gaussian, the product of a column and a row. pyiqa
convolves with the whole window in float64, for which PyTorch has no fast kernel. PIQE, which does
so in float32 and compares with thresholds, would give other scores and is left as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

TWO_PASSES = ("ssim", "ms_ssim", "niqe")
"""Metrics of pyiqa that are computed in this way."""


def fast(model: Callable[..., Any]) -> Callable[..., Any]:
    """The metric with its windows in two passes; its attributes stay those of `model`."""

    def call(*inputs: Any, **options: Any) -> Any:
        with _two_passes():
            return model(*inputs, **options)

    return call


@contextlib.contextmanager
def _two_passes() -> Iterator[None]:
    """pyiqa's filters replaced, where this version has them."""
    from pyiqa.archs import func_util, ssim_arch

    with contextlib.ExitStack() as stack:
        for module, name in ((ssim_arch, "filter2"), (func_util, "imfilter")):
            if (theirs := getattr(module, name, None)) is not None:
                setattr(module, name, _replacement(theirs))
                stack.callback(setattr, module, name, theirs)
        yield


def _replacement(theirs: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Two passes where the window is a product and is used as pyiqa's Gaussians are, else
    `theirs`.
    """

    def call(image: Tensor, window: Tensor, *more: Any, **options: Any) -> Tensor:
        parts = product(window[0, 0])
        grouped = image.shape[1] == window.shape[0]
        is_padded, is_valid = not more and set(options) == {"padding"}, more == ("valid",)
        if parts is None or not grouped or not (is_padded or is_valid):
            return theirs(image, window, *more, **options)
        if is_valid:
            return two_passes(image, *parts)
        from pyiqa.matlab_utils.padding import ExactPadding2d

        padded = ExactPadding2d(window.shape[2:], 1, 1, mode=options["padding"])(image)
        return two_passes(padded, *parts)

    return call


def product(window: Tensor) -> tuple[Tensor, Tensor] | None:
    """Column and row whose product the window (h, w) is; None where it is no product."""
    total = window.sum()
    if window.ndim != 2 or not bool(total.abs() > 1e-6):
        return None
    column, row = window.sum(1), window.sum(0) / total
    error = (column[:, None] * row - window).abs().max()
    return (column, row) if bool(error <= 1e-6 * window.abs().max()) else None  # float32's rounding


def two_passes(image: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H - h + 1, W - w + 1): sums of shifted copies."""
    height, width = (n - len(k) + 1 for n, k in zip(image.shape[-2:], (column, row), strict=True))
    across = sum(weight * image[..., i : i + width] for i, weight in enumerate(row.tolist()))
    down = column.tolist()
    return sum(weight * across[..., i : i + height, :] for i, weight in enumerate(down))
