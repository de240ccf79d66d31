"""Training tiles: crops of photographs, their degraded copies, and what the teacher makes of these.

The teacher, Real-ESRGAN x4plus, is 25 times the work of a training step on the same crop, so its
answers are computed once.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from photo_stream import PhotoStream
from torch import nn

TILE = 256
"""Side of a tile in pixels of the HR picture."""
_BATCH = 8
_SMOOTH, _KEPT_SMOOTH = 6.0, 0.25
"""A crop whose local deviation is below so many grey levels of 255 is kept so often."""
_SAVE_EVERY = 60.0
_FEWEST = 240


class Tiles(NamedTuple):
    """Pictures as bytes, pixels last: hr and teacher (N, 256, 256, 3), lr (N, 64, 64, 3)."""

    hr: torch.Tensor
    lr: torch.Tensor
    teacher: torch.Tensor


class Batch(NamedTuple):
    """Pictures in [-1, 1], channels first: hr and teacher (B, 3, H, W), lr (B, 3, H/4, W/4)."""

    hr: torch.Tensor
    lr: torch.Tensor
    teacher: torch.Tensor


def make_tiles(
    stream: PhotoStream, teacher: nn.Module, count: int, file: Path, seconds: float
) -> Tiles:
    """`count` tiles, or as many as `seconds` allow, 240 at least. They are saved now and then, and
    a second call goes on from `file`.
    """
    rng = torch.Generator().manual_seed(stream.dataset.seed + 7)
    parts: list[Tiles] = []
    if file.is_file():
        state = torch.load(file, weights_only=True)
        parts, stream.drawn = [Tiles(*state["tiles"])], state["drawn"]
        rng.set_state(state["rng"])
    began = saved_at = time.monotonic()
    while (made := sum(len(part.hr) for part in parts)) < count:
        if made >= _FEWEST and time.monotonic() - began > seconds:
            break
        parts.append(_next_tiles(stream, teacher, rng))
        if time.monotonic() - saved_at > _SAVE_EVERY:
            saved_at = time.monotonic()
            _save(parts, stream, rng, file)
            print(f"tiles: {sum(len(p.hr) for p in parts)} of {count}", flush=True)
    _save(parts, stream, rng, file)
    return joined(parts)


def joined(parts: list[Tiles]) -> Tiles:
    """Tiles one behind the other."""
    return Tiles(*(torch.cat(same) for same in zip(*parts, strict=True)))


def _save(parts: list[Tiles], stream: PhotoStream, rng: torch.Generator, file: Path) -> None:
    parts[:] = [joined(parts)]
    state = {"tiles": tuple(parts[0]), "drawn": stream.drawn, "rng": rng.get_state()}
    temporary = file.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, file)


@torch.no_grad()
def _next_tiles(stream: PhotoStream, teacher: nn.Module, rng: torch.Generator) -> Tiles:
    crops: list[torch.Tensor] = []
    while len(crops) < _BATCH:
        crop = stream.next_crops(1)
        if _deviation(crop) > _SMOOTH or float(torch.rand(1, generator=rng)) < _KEPT_SMOOTH:
            crops.append(crop)
    hr = (torch.cat(crops) + 1) / 2
    lr = stream.degrade(hr, rng)
    weight = next(teacher.parameters())
    given = lr.to(weight.dtype).contiguous(memory_format=torch.channels_last)
    return Tiles(*(_bytes(x) for x in (hr, lr, teacher(given).float())))


def _deviation(crop: torch.Tensor) -> float:
    """Mean standard deviation of the grey value in 16 x 16 squares, of 255."""
    grey = crop.mean(1, keepdim=True) * 127.5
    variance = F.avg_pool2d(grey.square(), 16) - F.avg_pool2d(grey, 16).square()
    return float(variance.clamp(min=0).sqrt().mean())


def _bytes(images: torch.Tensor) -> torch.Tensor:
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().contiguous()


def draw_batch(tiles: Tiles, count: int, crop: int, rng: torch.Generator) -> Batch:
    """`count` crops of `crop` px, one of each of some tiles, flipped and turned at random.

    `rng` lives on the CPU, the tiles where training runs.
    """
    device = tiles.hr.device
    small = crop // 4
    which = torch.randint(len(tiles.hr), (count,), generator=rng)
    corner = torch.randint(TILE // 4 - small + 1, (2, count), generator=rng)
    flips = torch.rand(2, count, generator=rng) < 0.5
    turned = bool(torch.rand(1, generator=rng) < 0.5)

    def cut(pictures: torch.Tensor, factor: int) -> torch.Tensor:
        steps = torch.arange(small * factor)
        lines = [
            torch.where(flips[i, :, None], steps.flip(0), steps) + factor * corner[i, :, None]
            for i in (0, 1)
        ]
        rows, columns = (line.to(device) for line in lines)
        found = pictures[which.to(device)[:, None, None], rows[:, :, None], columns[:, None, :]]
        found = found.permute(0, 3, 2, 1) if turned else found.permute(0, 3, 1, 2)
        return found.float() / 127.5 - 1

    return Batch(cut(tiles.hr, 4), cut(tiles.lr, 1), cut(tiles.teacher, 4))
