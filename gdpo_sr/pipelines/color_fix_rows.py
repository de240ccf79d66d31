"""The colour fixes of `utils.color_fix` for rows that arrive from the top, with equal results."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from gdpo_sr.pipelines.tiled_restoration import Rows
from gdpo_sr.utils.color_fix import EPSILON, LEVELS, wavelet_color_fix
from gdpo_sr.utils.resample import ResizedView

REACH = 2**LEVELS - 1  # pixels over which the wavelet fix looks to each side
COLUMNS = 1024  # columns that are fixed at a time


def fix_rows(name: str, rows: Iterable[Rows], views: Sequence[ResizedView]) -> Iterator[Rows]:
    """Rows (P, G, 3, r, W) with the colours of their sources, clamped to [0, 1].

    Args:
        name: one of `utils.color_fix.COLOR_FIXES`.
        rows: in order and without gap; those given back may be cut at other rows.
        views: the P sources at the output size.
    """
    for top, part in FIXES[name](rows, views):
        yield top, part.clamp(0, 1)


def _wavelet(rows: Iterable[Rows], views: Sequence[ResizedView]) -> Iterator[Rows]:
    """A row is fixed as soon as the REACH rows below it are known."""
    height = views[0].frame.height
    start, done, held = 0, 0, None  # `held` are the raw rows from `start` on
    for top, part in rows:
        held = part.clone() if held is None else torch.cat([held, part], -2)
        known = top + part.shape[-2]
        ready = height if known == height else max(known - REACH, done)
        if ready > done:
            yield done, _wavelet_window(held, start, done, ready, views)
        keep = max(ready - REACH, 0)
        start, done, held = keep, ready, held[..., keep - start :, :]


def _wavelet_window(
    held: torch.Tensor, start: int, top: int, bottom: int, views: Sequence[ResizedView]
) -> torch.Tensor:
    """Fixed rows top ... bottom of `held`, whose first row is `start`; some columns at a time."""
    width, stop = held.shape[-1], start + held.shape[-2]
    fixed = held.new_empty(*held.shape[:-2], bottom - top, width)
    for left in range(0, width, COLUMNS):
        right = min(left + COLUMNS, width)
        first, last = max(left - REACH, 0), min(right + REACH, width)
        for p, view in enumerate(views):
            source = view.window(start, stop, first, last)
            for k, target in enumerate(held[p, ..., first:last]):
                result = wavelet_color_fix(target[None], source[None])[0]
                inside = result[:, top - start : bottom - start, left - first : right - first]
                fixed[p, k, :, :, left:right] = inside
    return fixed


def _adain(rows: Iterable[Rows], views: Sequence[ResizedView]) -> Iterator[Rows]:
    """The rows wait in a temporary file until the moments of the whole picture are known."""
    target, source = _Moments(), _Moments()
    with tempfile.TemporaryFile() as file:
        shapes = []
        for top, part in rows:
            target.add(part)
            bottom = top + part.shape[-2]
            width = part.shape[-1]
            source.add(torch.stack([v.window(top, bottom, 0, width) for v in views])[:, None])
            shapes.append((top, part.shape))
            part.cpu().numpy().tofile(file)
        device = views[0].source.device
        (target_mean, target_std), (source_mean, source_std) = target.read(), source.read()
        file.seek(0)
        for top, shape in shapes:
            stored = np.fromfile(file, np.float32, shape.numel()).reshape(shape)
            part = torch.from_numpy(stored).to(device)
            yield top, (part - target_mean) / target_std * source_std + source_mean


class _Moments:
    """Mean and deviation per picture, candidate and channel, of rows that arrive one by one."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0, 0

    def add(self, part: torch.Tensor) -> None:
        wide = part.double()
        self.count += part.shape[-2] * part.shape[-1]
        self.total = self.total + wide.sum((-2, -1), keepdim=True)
        self.squares = self.squares + wide.square().sum((-2, -1), keepdim=True)

    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self.total / self.count
        spread = (self.squares / self.count - mean.square()).clamp(min=0)
        variance = spread * self.count / max(self.count - 1, 1)
        return mean.float(), (variance + EPSILON).sqrt().float()


def _keep(rows: Iterable[Rows], views: Sequence[ResizedView]) -> Iterator[Rows]:
    return iter(rows)


FIXES: dict[str, Callable[[Iterable[Rows], Sequence[ResizedView]], Iterator[Rows]]] = {
    "wavelet": _wavelet,
    "adain": _adain,
    "none": _keep,
}
