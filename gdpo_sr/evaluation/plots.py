"""Distribution plots as inline SVG: every score a dot, the quartiles a box, a row per method."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6d1f", "#7f7f7f")
_WIDTH, _ROW, _TOP, _LABEL, _RIGHT, _AXIS = 520, 44, 8, 118, 18, 30


def colour(index: int) -> str:
    """Colour of the method at a position."""
    return COLOURS[index % len(COLOURS)]


def distribution(title: str, scores: Mapping[str, np.ndarray]) -> str:
    """One plot: `scores` are (N,) by method, NaN left out; an empty string without any score."""
    finite = {method: values[np.isfinite(values)] for method, values in scores.items()}
    everything = np.concatenate(list(finite.values()))
    if len(everything) == 0:
        return ""
    ticks = nice_ticks(float(everything.min()), float(everything.max()))
    low, high = min(ticks[0], everything.min()), max(ticks[-1], everything.max())

    def x(value: float) -> float:
        return _LABEL + (value - low) / (high - low) * (_WIDTH - _LABEL - _RIGHT)

    height = _TOP + _ROW * len(scores) + _AXIS
    bottom = _TOP + _ROW * len(scores)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        *(_tick(x(tick), bottom, tick_label(tick, ticks)) for tick in ticks),
        *(
            _row(index, method, values, [x(float(v)) for v in values], x)
            for index, (method, values) in enumerate(finite.items())
        ),
        "</svg>",
    ]
    return "".join(parts)


def interval_bar(mean: float, low: float, high: float, reach: float) -> str:
    """A small bar of an interval around a mean; the middle is 0 and the edges are `reach`."""
    if not np.isfinite([mean, low, high]).all() or reach <= 0:
        return ""
    middle, half = 80.0, 74.0

    def x(value: float) -> str:
        return f"{middle + value / reach * half:.1f}"

    return (
        '<svg class="interval" viewBox="0 0 160 16" aria-hidden="true">'
        f'<line class="zero" x1="{middle}" x2="{middle}" y1="1" y2="15"/>'
        f'<line class="range" x1="{x(low)}" x2="{x(high)}" y1="8" y2="8"/>'
        f'<circle cx="{x(mean)}" cy="8" r="3.5"/></svg>'
    )


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    if high <= low:
        pad = abs(low) * 0.05 or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / wanted
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(power * next(m for m in (1, 2, 2.5, 5, 10) if rough <= m * power * (1 + 1e-9)))
    first, last = int(np.floor(low / step + 1e-9)), int(np.ceil(high / step - 1e-9))
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_label(tick: float, ticks: list[float]) -> str:
    """The tick with as many decimals as its neighbours differ in."""
    step = ticks[1] - ticks[0]
    decimals = next(d for d in range(13) if abs(round(step, d) - step) < step * 1e-6)
    return f"{tick:.{decimals}f}"


def _tick(x: float, bottom: int, text: str) -> str:
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom + 18}">{text}</text>'
    )


def _row(index: int, method: str, values: np.ndarray, xs: list[float], x) -> str:
    """Label, box of quartiles with the median and the mean, and a dot per picture."""
    middle = _TOP + _ROW * index + _ROW / 2
    label = method if len(method) <= 15 else method[:14] + "…"
    parts = [f'<g style="--colour:{colour(index)}">']
    parts.append(
        f'<text class="label" x="{_LABEL - 12}" y="{middle + 4:.1f}">{escape(label)}</text>'
    )
    if len(values):
        first, median, third = (x(float(q)) for q in np.quantile(values, [0.25, 0.5, 0.75]))
        parts.append(
            f'<rect class="box" x="{first:.1f}" y="{middle - 11:.1f}" height="22" rx="3"'
            f' width="{max(third - first, 1):.1f}"/>'
        )
        parts += [
            f'<circle class="dot" cx="{px:.1f}" cy="{middle + _jitter(i):.1f}" r="2.6"/>'
            for i, px in enumerate(xs)
        ]
        parts.append(
            f'<line class="median" x1="{median:.1f}" x2="{median:.1f}"'
            f' y1="{middle - 13:.1f}" y2="{middle + 13:.1f}"/>'
        )
    return "".join([*parts, "</g>"])


def _jitter(index: int) -> float:
    """Spread dots of equal scores: golden-ratio steps within +-8."""
    return ((index * 0.618034) % 1 - 0.5) * 16
