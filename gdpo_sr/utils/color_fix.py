"""Give a super-resolved picture the colours of its low-resolution source.

Both corrections are those of StableSR and OSEDiff (`adain` after Huang and Belongie 2017; `wavelet`
takes the low
frequencies of an a-trous decomposition from the source). Pictures are (B, 3, H, W) in [0, 1];
results are not clamped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from gdpo_sr.types import ImageError, OptionError

LEVELS = 5  # of the wavelet decomposition; the last blur reaches 2^4 pixels
EPSILON = 1e-5  # added to the variance


def adain_color_fix(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Shift and scale each channel of `target` to the mean and deviation of `source`, both (B, 3,
    H, W).
    """
    target_mean, target_std = _moments(target)
    source_mean, source_std = _moments(source)
    return (target - target_mean) / target_std * source_std + source_mean


def wavelet_color_fix(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Details of `target` on the low frequencies of `source`, both (B, 3, H, W).

    A sum of blurs is the blur of the sum, so one is enough.
    """
    _check_same_size(target, source)
    return target + _low_frequencies(source - target)


def apply_color_fix(name: str, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Correct the colours of `target` by the method `name`: wavelet, adain or none.

    Args:
        name: one of `COLOR_FIXES`.
        target: (B, 3, H, W), the super-resolved picture.
        source: (B, 3, H, W), the low-resolution picture enlarged to the same size.

    Raises:
        OptionError: no such method.
        ImageError: the two sizes differ.
    """
    if name not in COLOR_FIXES:
        raise OptionError(
            f"color_fix '{name}' is not one of {', '.join(COLOR_FIXES)}; choose one of them"
        )
    return COLOR_FIXES[name](target, source)


def _keep(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    return target


COLOR_FIXES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "wavelet": wavelet_color_fix,
    "adain": adain_color_fix,
    "none": _keep,
}


def _moments(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation per channel, (B, 3, 1, 1) each."""
    variance, mean = torch.var_mean(images, dim=(2, 3), keepdim=True)
    return mean, (variance + EPSILON).sqrt()


def _low_frequencies(images: torch.Tensor) -> torch.Tensor:
    """What remains after `LEVELS` binomial 3x3 blurs whose taps stand 1, 2, 4, ... pixels apart."""
    taps = torch.tensor([0.25, 0.5, 0.25], device=images.device, dtype=images.dtype)
    channels = images.shape[1]
    kernel = torch.outer(taps, taps).expand(channels, 1, 3, 3)
    for reach in (2**level for level in range(LEVELS)):
        padded = F.pad(images, (reach,) * 4, mode="replicate")
        images = F.conv2d(padded, kernel, dilation=reach, groups=channels)
    return images


def _check_same_size(target: torch.Tensor, source: torch.Tensor) -> None:
    if target.shape != source.shape:
        sizes = f"{tuple(target.shape)} and {tuple(source.shape)}"
        raise ImageError(
            f"colour fix: target and source differ in shape, {sizes}; enlarge the source first"
        )
