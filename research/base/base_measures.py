"""What is measured of a base model: functions of pictures, and of one pair of pictures.

Pictures are RGB in [0, 1].
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median

import torch

from gdpo_sr.metrics import Metric
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline, enlarge
from gdpo_sr.rewards.content_weights import texture_map, to_grey

SCALE = 4
GROUP = 8  # noises of a group
SMALL = 64  # side of the LR crops on which diversity is measured: 256 px restored
ON_LINE, NEARBY = (0, 1), (3, 8)  # distance from a spectral line, in frequency steps, both included


def rounded(images: torch.Tensor) -> torch.Tensor:
    """To the levels of an 8-bit file, which is what evaluate.py scores."""
    return (images.clamp(0, 1) * 255).round() / 255


def grid_energy(image: torch.Tensor, period: int) -> tuple[float, float]:
    """Spectral energy at the period of a grid, and next to it.

    A pattern that repeats every `period` pixels, however it follows the content, lies on the lines
    f = k / period, k = 1 ... period / 2, of both axes. Ordinary texture lies there too, as much as
    on the lines next to them: the quotient of the two is near 1 without a pattern, whether the
    picture is sharp or blurred.

    Args:
        image: (3, H, W).
        period: in pixels, at least 2.

    Returns:
        Mean power on the lines and on their neighbours, of the grey picture under a Hann window.
    """
    height, width = (side // period * period for side in image.shape[1:])
    grey = to_grey(image[None, :, :height, :width])[0]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    power = torch.fft.fft2((grey - grey.mean()) * window).abs().square() / window.square().sum()
    rows, columns = _line_distance(height, period), _line_distance(width, period)
    masks = []
    for low, high in (ON_LINE, NEARBY):
        on_rows, on_columns = ((low <= d) & (d <= high) for d in (rows, columns))
        masks.append(on_rows[:, None] | on_columns[None, :])
    return float(power[masks[0]].mean()), float(power[masks[1] & ~masks[0]].mean())


def _line_distance(length: int, period: int) -> torch.Tensor:
    """(length,) steps from each frequency to the next of k / period, k at least 1."""
    step = length // period
    frequency = torch.minimum(torch.arange(length), length - torch.arange(length))
    line = (frequency / step).round().clamp(1, period // 2)
    return (frequency - line * step).abs()


def score(metrics: Mapping[str, Metric], images: torch.Tensor, hr: torch.Tensor) -> dict[str, list]:
    """Every metric of (N, 3, H, W) against hr (3, H, W), N values each."""
    return {name: m(images, hr.expand_as(images)).tolist() for name, m in metrics.items()}


def measure_pair(
    pipe: OneStepSRPipeline,
    metrics: Mapping[str, Metric],
    hr: torch.Tensor,
    lr: torch.Tensor,
    noises: int,
) -> dict[str, float]:
    """Quality, colour shift and grid pattern of one restored picture.

    Args:
        hr, lr: (3, 4h, 4w) and (3, h, w).
        noises: noise draws that the scores are averaged over; `<metric>_std` is their spread.
    """
    rng = torch.Generator().manual_seed(0)
    restored = rounded(pipe(lr, generator=rng, num_candidates=noises, output_type="pt").images)
    bicubic = rounded(enlarge(lr, SCALE))
    found = {}
    for name, values in score(metrics, restored, hr).items():
        values = torch.tensor(values)
        found[name] = float(values.mean())
        if noises > 1:
            found[f"{name}_std"] = float(values.std())
    for name, values in score(metrics, bicubic[None], hr).items():
        found[f"{name}_bicubic"] = values[0]
    shift = (restored[0] - bicubic).mean((1, 2)).abs().max()
    period = pipe.generator.pixels_per_latent
    on, near = grid_energy(restored[0], period)
    on_hr, near_hr = grid_energy(hr, period)
    return {
        **found,
        "shift": float(shift) * 255,
        "grid": on,
        "grid_hr": on_hr,
        "grid_ratio": on / on_hr,
        "peak": on / near,
        "peak_hr": on_hr / near_hr,
    }


def measure_diversity(
    pipe: OneStepSRPipeline, psnr: Metric, hr: torch.Tensor, lr: torch.Tensor
) -> dict[str, float]:
    """Spread over GROUP noises in the middle 256 px, in levels of 255 and in dB; NaN where a
    picture has no textured or no smooth patch.
    """
    top, left = ((side - SMALL) // 2 for side in lr.shape[1:])
    part = lr[:, top : top + SMALL, left : left + SMALL]
    y, x, side = top * SCALE, left * SCALE, SMALL * SCALE
    target = hr[None, :, y : y + side, x : x + side]
    rng = torch.Generator().manual_seed(0)
    group = pipe(part, generator=rng, num_candidates=GROUP, output_type="pt").images
    spread = group.std(0).mean(0) * 255
    textured = texture_map(target)[0, 0] > 0
    return {
        "textured": float(spread[textured].mean()),
        "smooth": float(spread[~textured].mean()),
        "psnr_spread": float(psnr(rounded(group), target.expand_as(group)).std()),
    }


def autoencoder_psnr(pipe: OneStepSRPipeline, psnr: Metric, hr: torch.Tensor) -> float:
    """PSNR-Y in dB of hr (3, H, W) encoded and decoded."""
    with torch.no_grad():
        decoded = pipe.generator.decode(pipe.generator.encode(hr[None] * 2 - 1))
    return float(psnr(rounded((decoded + 1) / 2), hr[None]))


def seconds_for_512(pipe: OneStepSRPipeline, runs: int = 3) -> float:
    """Median CPU time of one 512x512 picture on one thread, after a warm-up.

    CPU time: on a free core it is the time that passes, and other jobs do not change it much.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lr = torch.rand(3, 512 // SCALE, 512 // SCALE, generator=torch.Generator().manual_seed(0))
    times = []
    for _ in range(runs + 1):
        start = time.process_time()
        pipe(lr, generator=torch.Generator().manual_seed(0), output_type="pt")
        times.append(time.process_time() - start)
    torch.set_num_threads(threads)
    return median(times[1:])
