"""The second-order Real-ESRGAN degradation: batched, on any device, random by one generator.

Source: Wang et al., "Real-ESRGAN" (2021), section 3.4 and figure 2. Kernels, noise strength, noise
colour and JPEG quality are drawn per picture; resize factors, interpolation modes, kind of noise
and the order of the last steps per batch, with several processes for the batch of all of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdpo_sr.config.degradation import (
    MAX_KERNEL_SIZE,
    DegradationOptions,
    StageOptions,
    light_degradation,
)
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
_LUMA = (0.2989, 0.587, 0.114)


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
        lr_size = (hr.shape[-2] // self.scale, hr.shape[-1] // self.scale)
        first, second = self.options.first, self.options.second
        image = self._blur(hr.float(), first, generator)
        image = _resize(image, _scaled(hr.shape[-2:], _draw_factor(first, generator)), generator)
        image = self._jpeg(_add_noise(image, first, generator), first, generator)
        image = self._blur(image, second, generator)
        image = _resize(image, _scaled(lr_size, _draw_factor(second, generator)), generator)
        image = _add_noise(image, second, generator)
        if chance(0.5, generator):
            image = self._jpeg(self._finish(image, lr_size, generator), second, generator)
        else:
            image = self._finish(self._jpeg(image, second, generator), lr_size, generator)
        return (image.clamp(0, 1) * 255).round() / 255

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

    def _blur(self, image: Tensor, stage: StageOptions, generator: torch.Generator) -> Tensor:
        if not chance(stage.blur_prob, generator):
            return image
        mix, sizes = self.options.kernel_mix, self.options.kernel_size_range
        kernels = _draw_kernels(len(image), generator, draw_blur_kernel, stage, mix, sizes)
        return _filter(image, kernels)

    def _finish(self, image: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Resize to the LR size, then the final sinc filter."""
        probability, sizes = self.options.final_sinc_prob, self.options.kernel_size_range
        image = _resize(image, size, generator)
        kernels = _draw_kernels(len(image), generator, draw_final_kernel, probability, sizes)
        return _filter(image, kernels)

    def _jpeg(self, image: Tensor, stage: StageOptions, generator: torch.Generator) -> Tensor:
        quality = uniform_per_sample(len(image), stage.jpeg_range, generator).flatten()
        quality = quality.clamp(max=_BEST_QUALITY).to(image.device)
        height, width = image.shape[-2:]
        # Whole 16-pixel blocks with repeated edges, as encoders do: DiffJPEG's zeros tint the edge.
        blocks = F.pad(image.clamp(0, 1), (0, -width % 16, 0, -height % 16), mode="replicate")
        return self._codec(image.device)(blocks, quality=quality)[..., :height, :width]

    def _codec(self, device: torch.device) -> nn.Module:
        """DiffJPEG on `device`; copied, for basicsr shares its tables between all instances."""
        if device not in self._jpeg_by_device:
            codec = load("basicsr.utils.diffjpeg").DiffJPEG(differentiable=False)
            self._jpeg_by_device[device] = copy.deepcopy(codec).requires_grad_(False).to(device)
        return self._jpeg_by_device[device]


def _draw_kernels(
    count: int, generator: torch.Generator, draw: Callable[..., Tensor], *settings: Any
) -> list[Tensor]:
    everything = range(count * share_of(generator)[1])
    return own_rows([draw(*settings, generator) for _ in everything], generator)


def _filter(image: Tensor, kernels: list[Tensor]) -> Tensor:
    """Each picture by its own kernel, borders mirrored; on a CPU one by one with OpenCV, which
    takes a tenth of the time of torch's grouped convolution there.
    """
    if image.device.type == "cpu":
        return torch.stack([filter_picture(*pair) for pair in zip(image, kernels, strict=True)])
    stacked = torch.stack(kernels).to(image.device)
    return load("basicsr.utils.img_process_util").filter2D(image.contiguous(), stacked)


def filter_picture(picture: Tensor, kernel: Tensor) -> Tensor:
    """A picture (3, H, W) on the CPU by a kernel (k, k), k odd, whose zero margin costs nothing."""
    import cv2

    used = kernel.nonzero()
    middle = len(kernel) // 2
    reach = int((used - middle).abs().max()) if len(used) else 0
    inner = kernel[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    pixels = picture.permute(1, 2, 0).contiguous().numpy()
    found = cv2.filter2D(pixels, -1, inner.contiguous().numpy(), borderType=cv2.BORDER_REFLECT_101)
    return torch.from_numpy(found).permute(2, 0, 1)


def _draw_factor(stage: StageOptions, generator: torch.Generator) -> float:
    low, high = stage.resize_range
    bounds = ((1.0, high), (low, 1.0), (1.0, 1.0))[choose(stage.resize_prob, generator)]
    return uniform(*bounds, generator)


def _scaled(size: tuple[int, ...], factor: float) -> tuple[int, int]:
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def _resize(image: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Resize without anti-aliasing in a drawn mode: the aliasing is part of the degradation."""
    mode = _MODES[integer(0, len(_MODES) - 1, generator)]
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image, size=size, mode=mode)


def _add_noise(image: Tensor, stage: StageOptions, generator: torch.Generator) -> Tensor:
    """Gaussian or Poisson noise (one kind per batch), coloured or grey per picture."""
    image = image.clamp(0, 1)
    gaussian = chance(stage.gaussian_noise_prob, generator)
    draw = _gaussian_noise if gaussian else _poisson_noise
    bounds = stage.noise_range if gaussian else stage.poisson_scale_range
    strength = uniform_per_sample(len(image), bounds, generator)
    is_grey = uniform_per_sample(len(image), (0.0, 1.0), generator) < stage.gray_noise_prob
    pictures = image.to(generator.device)
    sources = child_generators(len(image), generator)
    drawn = []
    for picture, pixels, only_grey in zip(pictures, sources, is_grey.flatten(), strict=True):
        grey = draw(_grey(picture), pixels)  # drawn always: what comes after stays the same
        drawn.append(grey.expand_as(picture) if only_grey else draw(picture, pixels))
    noise = strength * torch.stack(drawn)
    return (image + noise.to(image.device)).clamp(0, 1)


def _gaussian_noise(picture: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(picture.shape, generator=generator, device=generator.device)
    return noise / 255


def _poisson_noise(picture: Tensor, generator: torch.Generator) -> Tensor:
    """Shot noise; white has as many photons as the picture has 8-bit levels, as in basicsr."""
    levels = (picture * 255).round()
    picture = levels / 255
    count = int((torch.bincount(levels.flatten().int(), minlength=256) > 0).sum())
    photons = 2 ** math.ceil(math.log2(count))
    return torch.poisson(picture * photons, generator=generator) / photons - picture


def _grey(picture: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA, dtype=picture.dtype, device=picture.device).view(3, 1, 1)
    return (picture * weights).sum(dim=0, keepdim=True)
