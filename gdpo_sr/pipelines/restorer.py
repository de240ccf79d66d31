"""Restoring pictures by a generator, row by row: what the pipeline and the command share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch

from gdpo_sr.generators.half_norm import HALF, use_half_norm
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.generators.remembered import tensors_of
from gdpo_sr.pipelines.color_fix_rows import fix_rows
from gdpo_sr.pipelines.memory_limits import Tiling, first_that_fits, plan_tilings
from gdpo_sr.pipelines.noise_field import NoiseField
from gdpo_sr.pipelines.tiled_restoration import TileRestorer
from gdpo_sr.utils.resample import Frame, ResizedView
from gdpo_sr.utils.tiling import TileGrid

RowSink = Callable[[int, torch.Tensor], None]
"""Takes the first row and finished rows (P, G, 3, r, W) float32 in [0, 1], on the model's device.
Rows come in order; after a shortage of memory they may begin again at row 0."""


@dataclass(frozen=True)
class RestoreOptions:
    """What `OneStepSRPipeline.__call__` takes besides pictures, size and noise."""

    t_add: int | None = None
    prompt: str | None = None
    color_fix: str = "wavelet"
    tile: int | None = None
    tile_overlap: int = 16
    batch_size: int = 1


@dataclass(frozen=True)
class RestoreReport:
    """How pictures were restored.

    Attributes:
        tile: side of the tiles in latent pixels; None for whole pictures.
        tiles: their number per picture.
        retried: tiles that half precision could not compute and float32 did.
        shortages: messages, one for each time that memory ran out.
    """

    tile: int | None
    tiles: int
    retried: int = 0
    shortages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Restorer:
    """A generator on a device."""

    generator: NoiseAwareGenerator
    device: torch.device

    def compile(self) -> None:
        """Compile the networks by `torch.compile`, which happens when they first run."""
        self.generator.recorder = None
        vae = self.generator.vae
        for network in (self.generator.unet, vae.encoder, vae.decoder):
            network.compile()

    @torch.no_grad()
    def restore_into(
        self,
        sink: RowSink,
        pictures: Sequence[torch.Tensor],
        frame: Frame,
        seeds: Sequence[Sequence[int]],
        options: RestoreOptions,
    ) -> RestoreReport:
        """Restore pictures of one size and give their rows, from the top, to `sink`.

        Memory is needed for the sources, for one row of tiles and for what the sink keeps, not
        for the whole output.

        Args:
            sink: takes the rows.
            pictures: P tensors (3, h, w) in [0, 1] of one size.
            frame: size of the output.
            seeds: G noise seeds for each picture.
            options: everything else.

        Raises:
            OptionError: `t_add`, `tile` or `color_fix` is outside its range.
            ImageError: no finite result, or too little memory for the smallest tiles.
        """
        if options.t_add is not None:
            self.generator.scheduler.check_timestep("t_add", options.t_add)
        device = self.device
        self._quicken()
        views = [ResizedView(p.to(device, torch.float32), frame) for p in pictures]
        channels = self.generator.vae.config.latent_channels
        fields = [[NoiseField(seed, channels) for seed in group] for group in seeds]
        prompt = self.generator.prompt if options.prompt is None else options.prompt
        embeds = self.generator.prompt_encoder([prompt]).to(device)

        def attempt(tiling: Tiling) -> RestoreReport:
            if tiling != asked and self.generator.recorder is not None:
                self.generator.recorder.clear()  # memory ran out
            grid = self._grid(frame, tiling)
            restorer = TileRestorer(self.generator, embeds, options.t_add, tiling.batch_size)
            rows = restorer.rows(views, fields, grid)
            for top, part in fix_rows(options.color_fix, rows, views):
                sink(top, part)
            return RestoreReport(tiling.tile, len(grid), restorer.retried)

        side = max(frame.height, frame.width) / self.generator.pixels_per_latent
        tilings = plan_tilings(side, options.tile, options.tile_overlap, options.batch_size)
        asked = next(tilings)
        report, shortages = first_that_fits(attempt, chain([asked], tilings))
        if report.retried:
            logging.getLogger("gdpo_sr").warning(
                "%d tiles were not finite in %s and computed again in float32",
                report.retried,
                next(self.generator.unet.parameters()).dtype,
            )
        return replace(report, shortages=shortages)

    def _quicken(self) -> None:
        """On a GPU in half precision: channels last, as convolutions there want them."""
        networks = (self.generator.unet, self.generator.vae)
        half = next(networks[0].parameters()).dtype in HALF
        if self.device.type != "cuda" or not half or self.generator.recorder is None:
            return
        use_half_norm(networks)
        for network in networks:
            kernels = (w for w in tensors_of(network) if w.ndim == 4 and w[0, 0].numel() > 1)
            if next(kernels, torch.empty(0)).is_contiguous():
                network.to(memory_format=torch.channels_last)

    def _grid(self, frame: Frame, tiling: Tiling) -> TileGrid:
        ratio = self.generator.pixels_per_latent
        tile = None if tiling.tile is None else tiling.tile * ratio
        multiple = self.generator.size_multiple
        return TileGrid(frame.height, frame.width, tile, tiling.overlap * ratio, multiple)
