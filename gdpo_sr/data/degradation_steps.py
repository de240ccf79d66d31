"""What the degradation does to pictures once it is drawn: blur, resize, noise, JPEG.

A step holds the draws of a whole batch and is applied to some of its rows: to all at once on a GPU;
on a CPU to one after the other, so that a picture stays in the cache through all steps, in the
planes of `gdpo_sr.data.planes`. Both give the same up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdpo_sr.data.planes import filter_planes, jpeg_planes, resize_planes
from gdpo_sr.utils.basicsr import load

_LUMA = (0.2989, 0.587, 0.114)


class Step(Protocol):
    """One step of a batch of B pictures."""

    def __call__(self, image: Tensor, rows: slice) -> Tensor:
        """The pictures `rows` of the batch, (n, 3, h, w) in [0, 1], after the step."""
        ...


def apply_steps(steps: Sequence[Step], image: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) after all steps."""
    if not _on_cpu(image):
        return _in_turn(steps, image, slice(None))
    rows = [slice(index, index + 1) for index in range(len(image))]
    return torch.cat([_in_turn(steps, image[row], row) for row in rows])


def _in_turn(steps: Sequence[Step], image: Tensor, rows: slice) -> Tensor:
    for step in steps:
        image = step(image, rows)
    return image


def _on_cpu(image: Tensor) -> bool:
    return image.device.type == "cpu"


class Blur(NamedTuple):
    """Each picture by its own kernel (21, 21), borders mirrored."""

    kernels: Sequence[Tensor]

    def __call__(self, image: Tensor, rows: slice) -> Tensor:
        kernels = self.kernels[rows]
        if _on_cpu(image):
            pairs = zip(image, kernels, strict=True)
            return _stacked([_planes(filter_planes, p, k.numpy()) for p, k in pairs])
        stacked = torch.stack(list(kernels)).to(image.device)
        return load("basicsr.utils.img_process_util").filter2D(image.contiguous(), stacked)


class Resize(NamedTuple):
    """To `size` without anti-aliasing: the aliasing is part of the degradation."""

    size: tuple[int, int]
    mode: str

    def __call__(self, image: Tensor, rows: slice) -> Tensor:
        if tuple(image.shape[-2:]) == self.size:
            return image
        if _on_cpu(image) and self.mode != "area":
            return _stacked([_planes(resize_planes, p, self.size, self.mode) for p in image])
        return F.interpolate(image, size=self.size, mode=self.mode)


class Noise(NamedTuple):
    """Gaussian or Poisson noise of the `strength` (B, 1, 1, 1), coloured or grey per picture, each
    from its own source. A source is used up, so the step can be applied once.
    """

    gaussian: bool
    strength: Tensor
    is_grey: Tensor
    sources: Sequence[torch.Generator]

    def __call__(self, image: Tensor, rows: slice) -> Tensor:
        image = image.clamp(0, 1)
        draw = gaussian_noise if self.gaussian else poisson_noise
        pictures, drawn = image.to(self.strength.device), []
        own = zip(pictures, self.sources[rows], self.is_grey.flatten()[rows], strict=True)
        for picture, source, only_grey in own:
            grey = draw(grey_of(picture), source)  # drawn always: what comes after stays the same
            drawn.append(grey.expand_as(picture) if only_grey else draw(picture, source))
        noise = self.strength[rows] * _stacked(drawn)
        return noise.to(image.device).add_(image).clamp_(0, 1)


class Jpeg(NamedTuple):
    """JPEG of a `quality` (B,) each, by basicsr's DiffJPEG `codec`."""

    quality: Tensor
    codec: nn.Module

    def __call__(self, image: Tensor, rows: slice) -> Tensor:
        height, width = image.shape[-2:]
        # Whole 16-pixel blocks with repeated edges, as encoders do: DiffJPEG's zeros tint the edge.
        blocks = F.pad(image.clamp(0, 1), (0, -width % 16, 0, -height % 16), mode="replicate")
        quality = self.quality[rows].to(image.device, copy=True)  # DiffJPEG writes to it
        code = self._in_planes if _on_cpu(image) else self.codec
        return code(blocks, quality)[..., :height, :width]

    def _in_planes(self, blocks: Tensor, quality: Tensor) -> Tensor:
        factors = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
        parts = self.codec.compress.y_quantize.y_table, self.codec.compress.c_quantize.c_table
        tables = [[(factor * table).numpy() for table in parts] for factor in factors]
        pairs = zip(blocks, tables, strict=True)
        return _stacked([_planes(jpeg_planes, block, *own) for block, own in pairs])


def _stacked(pictures: Sequence[Tensor]) -> Tensor:
    """One alone is not copied."""
    return torch.stack(list(pictures)) if len(pictures) > 1 else pictures[0][None]


def _planes(function: Callable[..., np.ndarray], picture: Tensor, *settings: Any) -> Tensor:
    return torch.from_numpy(function(picture.contiguous().numpy(), *settings))


def gaussian_noise(picture: Tensor, generator: torch.Generator) -> Tensor:
    """Of deviation 1 in 8-bit levels."""
    noise = torch.randn(picture.shape, generator=generator, device=generator.device)
    return noise / 255


def poisson_noise(picture: Tensor, generator: torch.Generator) -> Tensor:
    """Shot noise; white has as many photons as the picture has 8-bit levels, as in basicsr."""
    levels = (picture * 255).round_()
    picture = levels / 255
    count = int((torch.bincount(levels.flatten().int(), minlength=256) > 0).sum())
    photons = 2 ** math.ceil(math.log2(count))
    drawn = torch.poisson(picture * photons, generator=generator)
    return drawn.div_(photons).sub_(picture)


def grey_of(picture: Tensor) -> Tensor:
    """Brightness (1, H, W) of a picture (3, H, W)."""
    weights = torch.tensor(_LUMA, dtype=picture.dtype, device=picture.device)
    return (weights @ picture.flatten(1)).view(1, *picture.shape[1:])
