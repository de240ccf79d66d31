"""The second-order Real-ESRGAN degradation: batched, on any device, random by one generator.

Source: Wang et al., "Real-ESRGAN" (2021), section 3.4 and figure 2. Kernels, noise strength, noise
colour and JPEG quality are drawn per picture; resize factors, interpolation modes, kind of noise
and the order of the last steps per batch, with several processes for the batch of all of them.
Everything is drawn first, then done by `gdpo_sr.data.degradation_steps`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gdpo_sr.config.degradation import (
    MAX_KERNEL_SIZE,
    DegradationOptions,
    StageOptions,
    light_degradation,
)
from gdpo_sr.data.degradation_steps import Blur, Jpeg, Noise, Resize, Step, apply_steps
from gdpo_sr.data.draws import (
    chance,
    child_generators,
    choose,
    integer,
    uniform,
    uniform_per_sample,
)
from gdpo_sr.data.kernels import draw_blur_kernel, draw_final_kernel
from gdpo_sr.shared_random import own_rows, share_of
from gdpo_sr.types import ImageError
from gdpo_sr.utils.basicsr import load

_MODES = ("area", "bilinear", "bicubic")
_BEST_QUALITY = 99.9  # at 100 the quantisation tables of DiffJPEG are 0 and the division gives NaN


class RealESRGANDegradation:
    """Makes LR pictures from HR pictures.

    Args:
        options: strengths and probabilities; None takes the released settings.
        scale: HR size divided by LR size.
    """

    def __init__(self, options: DegradationOptions | None = None, scale: int = 4) -> None:
        self.options = options if options is not None else DegradationOptions.model_validate({})
        self.scale = scale
        self._jpeg_by_device: dict[torch.device, nn.Module] = {}
        self.light = self._light() if self.options.light_prob > 0 else None

    def _light(self) -> RealESRGANDegradation:
        return RealESRGANDegradation(light_degradation(), self.scale)

    @torch.no_grad()
    def __call__(self, hr: Tensor, generator: torch.Generator) -> Tensor:
        """Degrade a batch.

        Args:
            hr: (B, 3, H, W), RGB in [0, 1]; H and W divisible by the scale.
            generator: source of every random number. With a CPU generator the same kernels, sizes,
                strengths and qualities are drawn on every device; Poisson noise, whose draws depend
                on the pixels, can differ where a device rounds differently.

        Returns:
            (B, 3, H / scale, W / scale) float32 on `hr`'s device, in [0, 1] at 8-bit levels.

        Raises:
            ImageError: wrong shape, size not divisible by the scale, or too small for the 21-pixel
                kernels.
        """
        if self.light is not None and chance(self.options.light_prob, generator):
            return self.light(hr, generator)
        self._check(hr)
        steps = self._draw(hr, generator)
        return (apply_steps(steps, hr.float()).clamp(0, 1) * 255).round() / 255

    def _draw(self, hr: Tensor, generator: torch.Generator) -> list[Step]:
        """What is done to the pictures of a batch; nothing of it depends on their pixels."""
        first, second, count = self.options.first, self.options.second, len(hr)
        size = hr.shape[-2:]
        small = (size[0] // self.scale, size[1] // self.scale)
        steps: list[Step] = [
            *self._blur(count, first, generator),
            _resize(_scaled(size, _draw_factor(first, generator)), generator),
            _noise(count, first, generator),
            self._jpeg(hr, first, generator),
            *self._blur(count, second, generator),
            _resize(_scaled(small, _draw_factor(second, generator)), generator),
            _noise(count, second, generator),
        ]
        if chance(0.5, generator):
            steps += self._finish(count, small, generator)
            return [*steps, self._jpeg(hr, second, generator)]
        steps.append(self._jpeg(hr, second, generator))
        return steps + self._finish(count, small, generator)

    def _check(self, hr: Tensor) -> None:
        if hr.ndim != 4 or hr.shape[1] != 3 or not hr.is_floating_point():
            raise ImageError(
                f"cannot degrade {tuple(hr.shape)} {hr.dtype}: pass float (B, 3, H, W) in [0, 1]"
            )
        height, width = hr.shape[-2:]
        if height % self.scale or width % self.scale:
            raise ImageError(
                f"HR size {width}x{height} is not divisible by scale {self.scale}: crop it first"
            )
        if min(height, width) < self.smallest_size():
            raise ImageError(
                f"HR size {width}x{height} is too small to degrade: "
                f"{self.smallest_size()} px at least"
            )

    def smallest_size(self) -> int:
        """Smallest HR side in pixels whose every intermediate size can be blurred."""
        reach = MAX_KERNEL_SIZE // 2 + 1
        smallest = math.ceil((reach + 1) / self.options.first.resize_range[0])
        return math.ceil(max(smallest, reach * self.scale) / self.scale) * self.scale

    def _blur(self, count: int, stage: StageOptions, generator: torch.Generator) -> list[Step]:
        if not chance(stage.blur_prob, generator):
            return []
        mix, sizes = self.options.kernel_mix, self.options.kernel_size_range
        return [_kernels(count, generator, draw_blur_kernel, stage, mix, sizes)]

    def _finish(self, count: int, size: tuple[int, int], generator: torch.Generator) -> list[Step]:
        """Resize to the LR size, then the final sinc filter."""
        probability, sizes = self.options.final_sinc_prob, self.options.kernel_size_range
        resize = _resize(size, generator)
        return [resize, _kernels(count, generator, draw_final_kernel, probability, sizes)]

    def _jpeg(self, hr: Tensor, stage: StageOptions, generator: torch.Generator) -> Jpeg:
        quality = uniform_per_sample(len(hr), stage.jpeg_range, generator).flatten()
        return Jpeg(quality.clamp(max=_BEST_QUALITY), self._codec(hr.device))

    def _codec(self, device: torch.device) -> nn.Module:
        """DiffJPEG on `device`; copied, for basicsr shares its tables between all instances."""
        if device not in self._jpeg_by_device:
            codec = load("basicsr.utils.diffjpeg").DiffJPEG(differentiable=False)
            self._jpeg_by_device[device] = copy.deepcopy(codec).requires_grad_(False).to(device)
        return self._jpeg_by_device[device]


def _kernels(
    count: int, generator: torch.Generator, draw: Callable[..., Tensor], *settings: Any
) -> Blur:
    everything = range(count * share_of(generator)[1])
    return Blur(own_rows([draw(*settings, generator) for _ in everything], generator))


def _draw_factor(stage: StageOptions, generator: torch.Generator) -> float:
    low, high = stage.resize_range
    bounds = ((1.0, high), (low, 1.0), (1.0, 1.0))[choose(stage.resize_prob, generator)]
    return uniform(*bounds, generator)


def _scaled(size: tuple[int, ...], factor: float) -> tuple[int, int]:
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def _resize(size: tuple[int, int], generator: torch.Generator) -> Resize:
    return Resize(size, _MODES[integer(0, len(_MODES) - 1, generator)])


def _noise(count: int, stage: StageOptions, generator: torch.Generator) -> Noise:
    """One kind per batch, coloured or grey per picture."""
    gaussian = chance(stage.gaussian_noise_prob, generator)
    bounds = stage.noise_range if gaussian else stage.poisson_scale_range
    strength = uniform_per_sample(count, bounds, generator)
    is_grey = uniform_per_sample(count, (0.0, 1.0), generator) < stage.gray_noise_prob
    return Noise(gaussian, strength, is_grey, child_generators(count, generator))
