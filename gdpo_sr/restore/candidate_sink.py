"""Rows of candidates become one picture: the first, the mean or the best of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gdpo_sr.utils.picture_modes import SourcePicture, result_channels, to_profile
from gdpo_sr.utils.resample import Frame, ResizedView

HEAT_RANGE = 0.1  # spread, on the scale 0 .. 1 of pixels, that gets the brightest colour

Score = Callable[[torch.Tensor], float]
"""A picture (1, 3, H, W) in [0, 1] -> its quality, higher is better; NaN where there is none."""


@dataclass
class Finished:
    """A restored picture, ready to be written.

    Attributes:
        pixels: (H, W, C) uint8 or uint16.
        icc: profile to embed, or None.
        heat_map: (H, W, 3) uint8, or None.
        candidate: index of the chosen one, or None for the mean.
        score: of the chosen one.
        spread: mean of the heat map's values, on the scale 0 .. 1 of pixels.
    """

    pixels: np.ndarray
    icc: bytes | None
    heat_map: np.ndarray | None = None
    candidate: int | None = 0
    score: float | None = None
    spread: float | None = None


class CandidateSink:
    """Takes the rows of P pictures with G candidates each; holds integers, not floats.

    Args:
        pictures: P sources.
        frame: size of the results.
        candidates: G.
        bits: of the results, 8 or 16, one for each picture.
        choice: first, mean or best.
        uncertainty: also keep the spread of the candidates.
    """

    def __init__(
        self,
        pictures: Sequence[SourcePicture],
        frame: Frame,
        candidates: int,
        bits: Sequence[int],
        choice: str = "first",
        uncertainty: bool = False,
    ) -> None:
        self.pictures, self.choice = pictures, choice
        self._types = [np.uint16 if depth == 16 else np.uint8 for depth in bits]
        self._alphas = [
            None if picture.alpha is None else ResizedView(picture.alpha, frame)
            for picture in pictures
        ]
        kept = candidates if choice == "best" else 1
        self._canvases = [
            [self._canvas(picture, frame, dtype) for _ in range(kept)]
            for picture, dtype in zip(pictures, self._types, strict=True)
        ]
        size = (frame.height, frame.width, 1)
        self._spreads = [np.zeros(size, np.uint16) for _ in pictures] if uncertainty else []

    @staticmethod
    def _canvas(picture: SourcePicture, frame: Frame, dtype: type) -> np.ndarray:
        """What goes through a profile afterwards is kept with 16 bits until then."""
        channels = (1 if picture.is_grey else 3) + (picture.alpha is not None)
        size = (frame.height, frame.width, channels)
        return np.zeros(size, dtype if picture.profile is None else np.uint16)

    def __call__(self, top: int, rows: torch.Tensor) -> None:
        """Take rows (P, G, 3, r, W) from row `top` on."""
        bottom, width = top + rows.shape[-2], rows.shape[-1]
        for p, picture in enumerate(self.pictures):
            view = self._alphas[p]
            alpha = None if view is None else view.window(top, bottom, 0, width)
            kept = rows[p].mean(0, keepdim=True) if self.choice == "mean" else rows[p]
            for canvas, color in zip(self._canvases[p], kept, strict=False):
                _fill(canvas, top, result_channels(color.cpu(), alpha, picture))
            if self._spreads:
                _fill(self._spreads[p], top, rows[p].std(0).mean(0, keepdim=True).cpu())

    def finished(self, index: int, score: Score | None = None) -> Finished:
        """The result of picture `index`, chosen by `score` if the choice is ``best``."""
        picture, canvases = self.pictures[index], self._canvases[index]
        scores = [score(_as_batch(canvas)) for canvas in canvases] if score else []
        best = max(range(len(scores)), key=lambda i: _or_worst(scores[i])) if scores else 0
        pixels = canvases[best]
        if picture.profile is not None:
            pixels = to_profile(pixels, picture.profile, self._types[index])
        result = Finished(pixels, picture.icc, candidate=best)
        result.score = scores[best] if scores else None
        if self.choice == "mean":
            result.candidate = None
        if self._spreads:
            result.heat_map = heat_map(self._spreads[index])
            result.spread = float(self._spreads[index].mean() / 65535)
        return result


def heat_map(spread: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of a spread (H, W, 1) uint16: black is 0, the brightest HEAT_RANGE."""
    import cv2  # a quarter of a second that only heat maps need

    steps = (spread.astype(np.float32) * (255 / 65535 / HEAT_RANGE)).clip(0, 255)
    colors = cv2.applyColorMap(np.rint(steps).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(colors[..., ::-1])


def _fill(canvas: np.ndarray, top: int, rows: torch.Tensor) -> None:
    """Write (C, r, W) in [0, 1] into (H, W, C) integers."""
    exact = (rows * np.iinfo(canvas.dtype).max).round_()
    canvas[top : top + rows.shape[-2]] = exact.permute(1, 2, 0).numpy()


def _as_batch(canvas: np.ndarray) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1] without alpha."""
    channels = [0, 1, 2] if canvas.shape[2] > 2 else [0, 0, 0]
    pixels = canvas[..., channels].astype(np.float32) / np.iinfo(canvas.dtype).max
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _or_worst(score: float) -> float:
    return -math.inf if math.isnan(score) else score
