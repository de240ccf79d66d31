"""The degradation's filters, sizes and JPEG of one picture on a CPU, a colour plane at a time.

They compute what the batched forms in `gdpo_sr.data.degradations` do, up to rounding, in the cache
of one core: OpenCV for filters and sizes, products of small matrices for JPEG. A picture is a
float32 array (3, H, W).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

_SEPARABLE = 1e-7
"""What a separable kernel may differ by from the product of its margins."""
_SHIFT = 128
_MIX = 255 * np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)
_UNMIX = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], np.float32) / 255
"""RGB in [0, 1] to 8-bit levels of brightness and two colours, and back."""


def filter_planes(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A picture by a kernel (k, k), k odd, borders mirrored. A zero margin costs nothing, nor does
    the identity; a product of a row and a column is applied as such.
    """
    import cv2

    inner = _without_margin(kernel)
    if inner.shape == (1, 1):
        return picture * inner[0, 0]
    factors, found = _factors(inner), np.empty_like(picture)
    border = cv2.BORDER_REFLECT_101
    for plane, out in zip(picture, found, strict=True):
        if factors is None:
            cv2.filter2D(plane, -1, inner, dst=out, borderType=border)
        else:
            cv2.sepFilter2D(plane, -1, *factors, dst=out, borderType=border)
    return found


def _without_margin(kernel: np.ndarray) -> np.ndarray:
    middle = len(kernel) // 2
    used = np.argwhere(kernel)
    reach = int(np.abs(used - middle).max()) if len(used) else 0
    inner = slice(middle - reach, middle + reach + 1)
    return np.ascontiguousarray(kernel[inner, inner])


def _factors(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Row and column whose product is the kernel, as an isotropic Gaussian has; else None."""
    exact = kernel.astype(np.float64)
    total = exact.sum()
    if abs(total) < 0.5:  # no blur
        return None
    column, row = exact.sum(1), exact.sum(0) / total
    if np.abs(np.outer(column, row) - exact).max() > _SEPARABLE:
        return None
    return row, column


def resize_planes(picture: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """A picture (3, *size) as `torch.nn.functional.interpolate` makes it; `mode` is "bilinear" or
    "bicubic", for OpenCV's "area" is not torch's.
    """
    import cv2

    kind = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}[mode]
    found = np.empty((len(picture), *size), np.float32)
    for plane, out in zip(picture, found, strict=True):
        cv2.resize(plane, size[::-1], dst=out, interpolation=kind)
    return found


def jpeg_planes(
    picture: np.ndarray, brightness_steps: np.ndarray, colour_steps: np.ndarray
) -> np.ndarray:
    """A picture in [0, 1] with sides of whole 16-pixel blocks after JPEG with its colours at half
    the size, in [0, 1]; steps (8, 8) are the quantisation tables.
    """
    import cv2

    _, height, width = picture.shape
    ycc = (_MIX @ picture.reshape(3, -1)).reshape(3, height, width)
    ycc[0] -= _SHIFT  # the colours' middle is 0 already
    ycc[0] = _coded(ycc[0], brightness_steps)
    half = width // 2, height // 2
    colours = [
        _coded(cv2.resize(plane, half, interpolation=cv2.INTER_AREA), colour_steps)
        for plane in ycc[1:]
    ]
    for plane, coded in zip(ycc[1:], colours, strict=True):
        cv2.resize(coded, (width, height), dst=plane, interpolation=cv2.INTER_NEAREST)
    ycc[0] += _SHIFT
    found = (_UNMIX @ ycc.reshape(3, -1)).reshape(3, height, width)
    return np.clip(found, 0, 1, out=found)


def _coded(plane: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """A plane whose blocks' cosine coefficients are whole multiples of `steps`."""
    down, across = _cosines()
    height, width = plane.shape
    strips = np.matmul(down, plane.reshape(-1, 8, width))
    found = (strips.reshape(-1, 16) @ across).reshape(-1, 8, width // 8, 8)
    found /= steps[:, None]
    np.rint(found, out=found)
    found *= steps[:, None]
    strips = (found.reshape(-1, 16) @ across.T).reshape(-1, 8, width)
    return np.matmul(down.T, strips).reshape(height, width)


@cache
def _cosines() -> tuple[np.ndarray, np.ndarray]:
    """The transform of a block's columns (8, 8), and of the rows of two blocks (16, 16), which
    stand on the right of a product.
    """
    order, place = np.mgrid[:8, :8]
    waves = np.cos((2 * place + 1) * order * math.pi / 16) / 2
    waves[0] /= math.sqrt(2)
    return waves.astype(np.float32), np.kron(np.eye(2), waves.T).astype(np.float32)
