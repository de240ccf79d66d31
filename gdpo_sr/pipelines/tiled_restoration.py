"""Encoder, UNet and decoder on one tile after the other: finished rows come out from the top."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, product

import torch
from torch import nn

from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.pipelines.noise_field import NoiseField
from gdpo_sr.types import ImageError
from gdpo_sr.utils.resample import ResizedView
from gdpo_sr.utils.tiling import TileGrid

Rows = tuple[int, torch.Tensor]
"""First row, and rows (P, G, C, r, W) of P pictures with G candidates each."""


STRIP = 128  # rows that are handed on at a time
GPU_AREA = 2**20  # pixels handed on at a time by a GPU, which is slowed down by small pieces


@dataclass
class TileRestorer:
    """The model with everything that is the same for all tiles.

    Attributes:
        model: the generator.
        prompt_embeds: (1, tokens, d).
        t_add: noise level, or None for the saved one.
        batch_size: tiles per forward pass.
        retried: tiles that had to be computed again in float32, so far.
    """

    model: NoiseAwareGenerator
    prompt_embeds: torch.Tensor
    t_add: int | None = None
    batch_size: int = 1
    retried: int = 0

    def rows(
        self,
        views: Sequence[ResizedView],
        fields: Sequence[Sequence[NoiseField]],
        grid: TileGrid,
    ) -> Iterator[Rows]:
        """Restored rows in [0, 1] of pictures of one size, in order and without gap.

        Only the tiles of one row are held at a time, and their place is used again: a caller
        copies what it keeps.

        Args:
            views: P pictures at the output size.
            fields: G noises for each of them.
            grid: the tiles, in pixels.
        """
        height, width = views[0].frame.height, views[0].frame.width
        shape = (len(views), len(fields[0]), 3, grid.high, grid.columns[-1] + grid.wide)
        band = torch.zeros(shape, device=views[0].source.device)
        for index, (top, below) in enumerate(zip(grid.rows, [*grid.rows[1:], height], strict=True)):
            self._add_tiles(band, top, grid.row_weights[index], views, fields, grid)
            finished, strip = below - top, _strip(band)
            for row in range(0, finished, strip):
                yield top + row, band[..., row : min(row + strip, finished), :width]
            shared = grid.high - finished
            band[..., :shared, :] = band[..., finished:, :].clone()
            band[..., shared:, :] = 0

    def _add_tiles(
        self,
        band: torch.Tensor,
        top: int,
        row_weights: torch.Tensor,
        views: Sequence[ResizedView],
        fields: Sequence[Sequence[NoiseField]],
        grid: TileGrid,
    ) -> None:
        """Add the weighted tiles that begin in row `top` to `band`."""
        places = product(range(len(views)), range(len(grid.columns)))
        while batch := list(islice(places, self.batch_size)):
            boxes = [
                (top, top + grid.high, grid.columns[column], grid.columns[column] + grid.wide)
                for _, column in batch
            ]
            pixels = torch.stack(
                [views[p].window(*box) for (p, _), box in zip(batch, boxes, strict=True)]
            )
            noises = self._noises([fields[p] for p, _ in batch], boxes)
            restored = self.restore(pixels, noises)
            for (p, column), (_, _, left, right), tile in zip(batch, boxes, restored, strict=True):
                weights = torch.outer(row_weights, grid.column_weights[column])
                band[p, ..., left:right] += tile * weights.to(tile.device)

    def _noises(
        self, fields: Sequence[Sequence[NoiseField]], boxes: Sequence[tuple[int, int, int, int]]
    ) -> list[torch.Tensor]:
        """G noises (b, c, h, w) for b tiles."""
        ratio = self.model.pixels_per_latent
        windows = [tuple(edge // ratio for edge in box) for box in boxes]
        return [
            torch.stack([field[k].window(*box) for field, box in zip(fields, windows, strict=True)])
            for k in range(len(fields[0]))
        ]

    def restore(self, pixels: torch.Tensor, noises: Sequence[torch.Tensor]) -> torch.Tensor:
        """(b, G, 3, H, W) float32 in [0, 1] of tiles (b, 3, H, W) in [0, 1] and G noises.

        A tile that comes out with NaN or infinity is computed again in float32.

        Raises:
            ImageError: float32 does not help.
        """
        images, finite = self._attempt(pixels, noises)
        bad = torch.nonzero(~finite).flatten()
        if len(bad):
            self.retried += len(bad)
            with full_precision(self.model.unet, self.model.vae):
                picked = [noise[bad.to(noise.device)] for noise in noises]
                images[bad], finite = self._attempt(pixels[bad], picked)
        if not finite.all():
            raise ImageError("the model gives NaN or infinity, in float32 too; try another --t_add")
        return images

    def _attempt(
        self, pixels: torch.Tensor, noises: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Restored tiles (b, G, 3, H, W) and which of them are finite, (b,)."""
        model, dtype = self.model, next(self.model.unet.parameters()).dtype
        embeds = self.prompt_embeds.to(dtype).expand(len(pixels), -1, -1)
        latents = model.encode((pixels * 2 - 1).to(dtype))
        finite, images = latents.isfinite().flatten(1).all(1), []
        for noise in noises:
            noise = noise.to(latents.device, dtype)
            restored = model.restore_latents(latents, noise, embeds, self.t_add)
            images.append(model.decode(restored).float() / 2 + 0.5)
            for part in (restored, images[-1]):
                finite = finite & part.isfinite().flatten(1).all(1)
        return torch.stack(images, 1), finite


def _strip(band: torch.Tensor) -> int:
    """Rows that are handed on at a time."""
    return max(STRIP, GPU_AREA // band.shape[-1]) if band.is_cuda else STRIP


@contextmanager
def full_precision(*modules: nn.Module) -> Iterator[None]:
    """Every floating-point parameter and buffer in float32; afterwards in its own type again.

    Nothing is lost on the way: float32 holds every half-precision number.
    """
    tensors = [
        tensor
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
        if tensor.is_floating_point()
    ]
    types = [tensor.dtype for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, dtype in zip(tensors, types, strict=True):
            tensor.data = tensor.data.to(dtype)
