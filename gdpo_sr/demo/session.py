"""What the page does with a picture, without the page: restore it by several noises and score them.

A step yields after each candidate, so that the page shows them as they come and can be stopped
between two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gdpo_sr.checkpoints.lora import find_adapter
from gdpo_sr.checkpoints.meaning import Meaning, base_of, read_meaning
from gdpo_sr.metrics.registry import Metric, create_metric
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.restore.candidate_sink import heat_map
from gdpo_sr.types import ImageError, OptionError
from gdpo_sr.utils.image_io import image_size, read_image
from gdpo_sr.utils.resample import enlarge

NO_LORA = "none"
OWN_BASE = "that of the LoRA's training, or mini"
MAX_CANDIDATES = 16


@dataclass(frozen=True)
class Request:
    """What the page asks for.

    Attributes:
        file: the picture.
        base, lora: of those that the command was given, or OWN_BASE and NO_LORA.
        t_add: noise level; None: the model's own.
        candidates: noises; the i-th is drawn from `seed` + i.
    """

    file: str | Path
    base: str = OWN_BASE
    lora: str = NO_LORA
    lora_scale: float = 1.0
    scale: float = 4.0
    t_add: int | None = None
    candidates: int = 1
    seed: int = 0


@dataclass
class Restored:
    """What there is to show after some candidates; pictures are (H, W, 3) uint8.

    Attributes:
        before: the bicubic enlargement.
        candidates: in the order of their seeds.
        scores: of each candidate by metric, NaN where one has none.
        best: index of the best candidate by the first metric.
        spread: heat map of where the candidates differ; None for one.
    """

    before: np.ndarray
    candidates: list[np.ndarray] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    best: int = 0
    spread: np.ndarray | None = None

    def captions(self) -> list[str]:
        """A line a candidate: its number, its scores, and which is best."""
        lines = []
        for index, scores in enumerate(self.scores):
            figures = [f"{name} {value:.1f}" for name, value in scores.items() if value == value]
            mark = " (best)" if index == self.best and len(self.scores) > 1 else ""
            lines.append(", ".join([f"{index + 1}{mark}", *figures]))
        return lines


class Session:
    """Models that were loaded, one at a time, and the metrics.

    Args:
        bases, loras: what may be asked for; a page must not name other files.
        metrics: no-reference metrics; the first chooses the best candidate.
        device: where everything is computed.
        max_pixels: of a result.

    Raises:
        MetricError: a metric is unknown or compares with a reference.
    """

    def __init__(
        self,
        bases: Sequence[str],
        loras: Sequence[str],
        metrics: Sequence[str],
        device: torch.device,
        max_pixels: int,
    ) -> None:
        self.bases, self.loras = (OWN_BASE, *bases), (NO_LORA, *loras)
        self.device, self.max_pixels = device, max_pixels
        self.metrics = {name: self._metric(name) for name in metrics}
        self._loaded: tuple[object, OneStepSRPipeline] | None = None

    def _metric(self, name: str) -> Metric:
        metric = create_metric(name, str(self.device))
        if metric.full_reference:
            raise OptionError(f"--metrics {name}: it needs a reference; choose others, as piqe")
        return metric

    def restore(self, request: Request) -> Iterator[Restored]:
        """The same `Restored`, with one candidate more each time.

        Raises:
            ImageError: the picture cannot be read, or the result is too large.
            OptionError: an option is outside its range, or not one that was offered.
            CheckpointError: base or LoRA cannot be loaded.
        """
        self._check(request)
        pipe = self.pipeline(request.base, request.lora, request.lora_scale)
        found = Restored(_bytes(enlarge(read_image(request.file), request.scale)))
        for index in range(request.candidates):
            rng = torch.Generator().manual_seed(request.seed + index)
            output = pipe(
                request.file, request.scale, rng, request.t_add, output_type="pt"
            ).images  # fmt: skip
            found.scores.append(self.score(output))
            found.candidates.append(_bytes(output[0]))
            found.best = self._best(found.scores)
            if index:
                found.spread = heat_map(_spread(found.candidates))
            yield found

    def pipeline(self, base: str, lora: str, lora_scale: float) -> OneStepSRPipeline:
        """The model asked for; only the latest is kept."""
        key = (base, lora, lora_scale)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # the memory of the one before is needed
            self._loaded = (key, self._load(base, lora, lora_scale))
        return self._loaded[1]

    def _load(self, base: str, lora: str, lora_scale: float) -> OneStepSRPipeline:
        meaning = Meaning() if lora == NO_LORA else read_meaning(find_adapter(lora))
        place = base_of(meaning, {"base": None if base == OWN_BASE else base})
        pipe = OneStepSRPipeline.from_pretrained(**place)
        if lora != NO_LORA:
            pipe.load_lora_weights(lora, scale=lora_scale)
            pipe.merge_lora_weights()
        return pipe.to(self.device)

    def score(self, image: torch.Tensor) -> dict[str, float]:
        """Scores of a picture (1, 3, H, W) in [0, 1] by metric."""
        return {name: float(metric(image)) for name, metric in self.metrics.items()}

    def _best(self, scores: Sequence[Mapping[str, float]]) -> int:
        if not self.metrics:
            return 0
        name, metric = next(iter(self.metrics.items()))
        sign = -1 if metric.lower_better else 1
        values = [sign * row[name] for row in scores]
        return max(range(len(values)), key=lambda i: -np.inf if np.isnan(values[i]) else values[i])

    def _check(self, request: Request) -> None:
        for name, value, known in (
            ("base", request.base, self.bases),
            ("LoRA", request.lora, self.loras),
        ):
            if value not in known:
                raise OptionError(f"{name} {value!r}: choose one of {', '.join(known)}")
        if not 1 <= request.candidates <= MAX_CANDIDATES:
            raise OptionError(f"candidates = {request.candidates}: use 1 to {MAX_CANDIDATES}")
        height, width = image_size(request.file)
        if height * width * request.scale**2 > self.max_pixels:
            raise ImageError(
                f"{width}x{height} times {request.scale:g} is more than {self.max_pixels / 1e6:g} "
                "million pixels: take a smaller part or scale, or start the page with a larger "
                "--max_pixels"
            )


def _bytes(image: torch.Tensor) -> np.ndarray:
    """(H, W, 3) uint8 of a picture (3, H, W) in [0, 1]."""
    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(1, 2, 0).contiguous().cpu().numpy()


def _spread(candidates: Sequence[np.ndarray]) -> np.ndarray:
    """Standard deviation over candidates, mean over colours, as (H, W, 1) uint16 of [0, 1]."""
    pixels = torch.from_numpy(np.stack(candidates)).float() / 255
    spread = pixels.std(0).mean(-1, keepdim=True)
    return (spread * 65535).round().to(torch.int32).numpy().astype(np.uint16)


def as_picture(pixels: np.ndarray | None) -> Image.Image | None:
    """For the page."""
    return None if pixels is None else Image.fromarray(pixels)
