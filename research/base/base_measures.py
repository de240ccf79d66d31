"""What is measured of restored pictures: quality, spread over noises, and a pattern in the latents.

Pictures are RGB in [0, 1]; N restorations of one picture differ in their noise.
"""

from __future__ import annotations

import time
from statistics import median

import torch

from gdpo_sr.metrics import PROTOCOLS, create_metric
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.rewards.texture_share import textured_patches, to_grey
from gdpo_sr.trainer import alarms

MIDDLE = 256  # side of the middle part in which the spread is measured
ON_LINE, NEARBY = (0, 1), (3, 8)  # distance from a spectral line, in frequency steps, both included


def rounded(images: torch.Tensor) -> torch.Tensor:
    """To the levels of an 8-bit file, which is what evaluate.py scores."""
    return (images.clamp(0, 1) * 255).round() / 255


class Quality:
    """PSNR-Y (dB), SSIM-Y, NIQE and PIQE as `evaluate.py --protocol offline` scores them."""

    def __init__(self) -> None:
        self.metrics = {name: create_metric(name) for name in PROTOCOLS["offline"]}

    def __call__(self, images: torch.Tensor, hr: torch.Tensor) -> dict[str, float]:
        """Means by name, of images (N, 3, H, W) against hr (1, 3, H, W)."""
        paired = (images, hr.expand_as(images))
        return {name: float(metric(*paired).mean()) for name, metric in self.metrics.items()}

    def psnr(self, images: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """PSNR-Y (N,) of each picture as an 8-bit file."""
        return self.metrics["psnr_y"](rounded(images), hr.expand_as(images))


def spread(images: torch.Tensor, hr: torch.Tensor, quality: Quality) -> dict[str, float]:
    """Standard deviation over noises of (N, 3, H, W) in the middle of the picture.

    Returns:
        `textured`, `smooth`: in levels of 255, mean over those pixels of hr (1, 3, H, W);
        `psnr_spread`: of PSNR-Y, in dB. NaN for one noise, or where there are no such pixels.
    """
    images, hr = _middle(images), _middle(hr)
    deviation = images.std(0).mean(0) * 255
    patches = textured_patches(hr)[0].repeat_interleave(10, 0).repeat_interleave(10, 1)
    textured = patches[: hr.shape[-2], : hr.shape[-1]]
    return {
        "textured": float(deviation[textured].mean()),
        "smooth": float(deviation[~textured].mean()),
        "psnr_spread": float(quality.psnr(images, hr).std()),
    }


def _middle(images: torch.Tensor) -> torch.Tensor:
    top, left = (max(side - MIDDLE, 0) // 2 for side in images.shape[2:])
    return images[:, :, top : top + MIDDLE, left : left + MIDDLE]


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


def pattern(image: torch.Tensor, hr: torch.Tensor, period: int) -> dict[str, float]:
    """Signs of the latents' grid in one picture, and in hr, both (3, H, W).

    Returns:
        `grid`: energy at the period, which a sharper picture has more of; `peak`: the same, that of
        the next frequencies as unit; `phases`: unevenness of the gradient over the grid's places.
    """
    found = {}
    for suffix, picture in (("", image), ("_hr", hr)):
        on, near = grid_energy(picture, period)
        found[f"grid{suffix}"], found[f"peak{suffix}"] = on, on / near
        found[f"phases{suffix}"] = float(alarms.grid_energy(picture[None], period))
    return found


def seconds_for_512(pipe: OneStepSRPipeline, runs: int = 3) -> float:
    """Median CPU time of one 512x512 picture on one thread, after a warm-up.

    CPU time: on a free core it is the time that passes, and other jobs do not change it much.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lr = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    times = []
    for _ in range(runs + 1):
        start = time.process_time()
        pipe(lr, generator=torch.Generator().manual_seed(0), output_type="pt")
        times.append(time.process_time() - start)
    torch.set_num_threads(threads)
    return median(times[1:])
