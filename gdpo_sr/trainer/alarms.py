"""Alarms: rewarded metrics rise while what is never rewarded gets worse, against the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from gdpo_sr.trainer.report import Comparison, MetricComparison, Pictures, mean


@dataclass(frozen=True)
class Measure:
    """A held-out metric, or a probe of the pictures.

    Attributes:
        name: of the metric or probe.
        base, policy: means over the pictures.
        worse: change in the bad direction, as a share of the base's size.
        beyond: whether that is more than the limit.
    """

    name: str
    base: float
    policy: float
    worse: float
    beyond: bool


@dataclass(frozen=True)
class AlarmReport:
    """What one validation says.

    Attributes:
        raised: a rewarded metric rose, and enough held-out measures are beyond their limit.
        best: no alarm, and the rewarded metrics are better than in any validation before.
        measures: all that are not rewarded.
    """

    raised: bool
    best: bool
    measures: list[Measure]

    def text(self) -> str:
        """The warning."""
        bad = [m for m in self.measures if m.beyond]
        figures = ", ".join(f"{m.name} {m.base:.4g} -> {m.policy:.4g}" for m in bad)
        return (
            f"rewards rise while {len(bad)} of {len(self.measures)} measures that are not rewarded "
            f"got worse: {figures}. Look at the pictures; lower train.optim_g.lr or stop earlier"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def relative_gain(row: MetricComparison) -> float:
    """Mean change of a metric in its good direction, as a share of the base's mean."""
    change = mean(row.changes()) / max(abs(mean(row.base)), 1e-8)
    return -change if row.lower_better else change


class Alarms:
    """Compares every validation with the base.

    Args:
        metric_limit: a held-out metric is bad if it got worse by more than this share of the base.
        probe_limit: edge density and high-frequency energy are bad if they change, the energy at
            the latent grid's period if it grows, by more than this share of the base's.
        share: of all measures; so many bad ones are an alarm if a rewarded metric rose.
        period: of the latent grid, in pixels.
    """

    def __init__(self, metric_limit: float, probe_limit: float, share: float, period: int) -> None:
        self.metric_limit, self.probe_limit = metric_limit, probe_limit
        self.share, self.period = share, period
        self._best: float | None = None

    def check(self, comparison: Comparison, pictures: Pictures) -> AlarmReport:
        """Report on one validation.

        Args:
            comparison: rewarded and held-out metrics of base and policy.
            pictures: `base` and `policy`, (3, H, W) in [0, 1], of the same fixed photos.
        """
        held_out = [row for row in comparison.metrics if not row.rewarded]
        measures = [self._of_metric(row) for row in held_out] + self._of_pictures(pictures)
        gains = [relative_gain(row) for row in comparison.metrics if row.rewarded]
        bad = sum(m.beyond for m in measures)
        raised = any(gain > 0 for gain in gains) and bad >= self.share * len(measures)
        gain = mean(gains)
        best = not raised and (self._best is None or gain > self._best)
        if best:
            self._best = gain
        return AlarmReport(raised, best, measures)

    def _of_metric(self, row: MetricComparison) -> Measure:
        worse = -relative_gain(row)
        return Measure(row.name, mean(row.base), mean(row.policy), worse, worse > self.metric_limit)

    def _of_pictures(self, pictures: Pictures) -> list[Measure]:
        base = mean_probes([p["base"] for p in pictures], self.period)
        policy = mean_probes([p["policy"] for p in pictures], self.period)
        return [self._of_probe(name, base[name], policy[name]) for name in base]

    def _of_probe(self, name: str, base: float, policy: float) -> Measure:
        change = (policy - base) / max(abs(base), 1e-8)
        worse = change if name == "latent_grid" else abs(change)
        return Measure(name, base, policy, worse, worse > self.probe_limit)

    def state_dict(self) -> dict[str, float | None]:
        """The best gain so far."""
        return {"best": self._best}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Restore what `state_dict` returned."""
        self._best = state["best"]


def mean_probes(images: list[torch.Tensor], period: int) -> dict[str, float]:
    """Each probe's mean over pictures (3, H, W), which may differ in size."""
    found = [probe(image, period) for image in images]
    return {name: mean([values[name] for values in found]) for name in found[0]}


# Probes: signs of reward hacking in pictures, without a reference ------------------------------

EDGE = 0.1
"""Gradient, in grey levels of [0, 1] per pixel, from which a pixel counts as an edge."""


def grey(images: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) -> (N, H, W), mean of the channels."""
    return images.float().mean(1)


def edge_density(images: torch.Tensor) -> torch.Tensor:
    """Share of pixels (N,) of images (N, 3, H, W) in [0, 1] whose central difference is an edge."""
    x = F.pad(grey(images)[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    dx = (x[:, 1:-1, 2:] - x[:, 1:-1, :-2]) / 2
    dy = (x[:, 2:, 1:-1] - x[:, :-2, 1:-1]) / 2
    return ((dx.square() + dy.square()).sqrt() > EDGE).float().mean(dim=(1, 2))


def high_frequency_energy(images: torch.Tensor) -> torch.Tensor:
    """Mean power (N,) above half the Nyquist frequency, in squared grey levels."""
    x = grey(images)
    height, width = x.shape[-2:]
    spectrum = torch.fft.fft2(x, norm="forward").abs().square()
    fy = torch.fft.fftfreq(height, device=x.device)[:, None]
    fx = torch.fft.fftfreq(width, device=x.device)
    return (spectrum * ((fx.square() + fy.square()).sqrt() > 0.25)).sum(dim=(1, 2))


def grid_energy(images: torch.Tensor, period: int) -> torch.Tensor:
    """Unevenness (N,) of the gradient over the phases of a grid of `period` pixels: std / mean.

    Differences between neighbours are averaged by their position inside a cell; without a grid all
    positions are alike. The mean of both directions; 0 for a period of 1.
    """
    x = grey(images)
    return (_unevenness(x, period) + _unevenness(x.mT, period)) / 2


def _unevenness(x: torch.Tensor, period: int) -> torch.Tensor:
    steps = (x[..., 1:] - x[..., :-1]).abs().mean(1)
    whole = steps[:, : steps.shape[1] // period * period]
    phases = whole.unflatten(1, (-1, period)).mean(1)
    return phases.std(1, correction=0) / phases.mean(1).clamp(min=1e-6)


def probe(images: torch.Tensor, period: int) -> dict[str, float]:
    """The three probes of one picture (3, H, W) in [0, 1]; `period` is the latent grid's."""
    batch = images[None]
    return {
        "edge_density": float(edge_density(batch)),
        "high_frequency": float(high_frequency_energy(batch)),
        "latent_grid": float(grid_energy(batch, period)),
    }
