"""Random blur and sinc kernels of Real-ESRGAN, drawn from an explicit generator.

The kernel formulas are basicsr's deterministic ones; every random number comes from the
`torch.Generator` passed in. Source: Wang et al., "Real-ESRGAN" (2021), sections 3.1 and 3.3.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gdpo_sr.config.degradation import MAX_KERNEL_SIZE, KernelMix, StageOptions
from gdpo_sr.data.draws import chance, choose, integer, uniform
from gdpo_sr.utils.basicsr import load

_LARGE_KERNEL = 13  # from this size on a sinc kernel may have the lower cutoff pi / 5


def draw_blur_kernel(
    stage: StageOptions, mix: KernelMix, size_range: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """One kernel of a degradation stage: a sinc filter with `sinc_prob`, else a member of `mix`.

    Returns:
        (21, 21) float32 that sums to 1; smaller kernels are centred in zeros.
    """
    size = draw_size(size_range, generator)
    if chance(stage.sinc_prob, generator):
        lowest = math.pi / 3 if size < _LARGE_KERNEL else math.pi / 5
        return sinc_kernel(uniform(lowest, math.pi, generator), size)
    weights = mix.model_dump()
    family = list(weights)[choose(list(weights.values()), generator)]
    return _pad(_draw_family(family, stage, size, generator))


def draw_final_kernel(
    probability: float, size_range: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """The last filter: a sinc kernel with the given probability, else the identity; (21, 21)."""
    if not chance(probability, generator):
        return identity_kernel()
    size = draw_size(size_range, generator)
    return sinc_kernel(uniform(math.pi / 3, math.pi, generator), size)


def draw_size(size_range: tuple[int, int], generator: torch.Generator) -> int:
    """An odd kernel size within `size_range`, both ends included."""
    return 2 * integer(size_range[0] // 2, size_range[1] // 2, generator) + 1


def sinc_kernel(cutoff: float, size: int) -> Tensor:
    """Circular low-pass filter with `cutoff` in radians per pixel; (21, 21), sums to 1."""
    with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 at the centre, set afterwards
        kernel = load("basicsr.data.degradations").circular_lowpass_kernel(cutoff, size)
    return _pad(kernel)


def identity_kernel() -> Tensor:
    """(21, 21) with a single 1 in the centre."""
    kernel = torch.zeros(MAX_KERNEL_SIZE, MAX_KERNEL_SIZE)
    kernel[MAX_KERNEL_SIZE // 2, MAX_KERNEL_SIZE // 2] = 1.0
    return kernel


def _draw_family(
    family: str, stage: StageOptions, size: int, generator: torch.Generator
) -> np.ndarray:
    isotropic = not family.endswith("aniso")
    sigma_x = sigma_y = uniform(*stage.blur_sigma, generator)
    theta = 0.0
    if not isotropic:
        sigma_y = uniform(*stage.blur_sigma, generator)
        theta = uniform(-math.pi, math.pi, generator)
    formulas = load("basicsr.data.degradations")
    shape = (size, sigma_x, sigma_y, theta)
    if family.startswith("generalized"):
        beta = _draw_beta(stage.betag_range, generator)
        return formulas.bivariate_generalized_Gaussian(*shape, beta, isotropic=isotropic)
    if family.startswith("plateau"):
        beta = _draw_beta(stage.betap_range, generator)
        return formulas.bivariate_plateau(*shape, beta, isotropic=isotropic)
    return formulas.bivariate_Gaussian(*shape, isotropic=isotropic)


def _draw_beta(bounds: tuple[float, float], generator: torch.Generator) -> float:
    """Below and above 1 (the Gaussian) equally often, as far as the range reaches."""
    low, high = bounds
    middle = min(max(1.0, low), high)
    if chance(0.5, generator):
        return uniform(low, middle, generator)
    return uniform(middle, high, generator)


def _pad(kernel: np.ndarray) -> Tensor:
    border = (MAX_KERNEL_SIZE - kernel.shape[0]) // 2
    return torch.from_numpy(np.pad(kernel, border)).float()
