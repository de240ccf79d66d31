"""Throughput of the Real-ESRGAN degradation, against a loop over pictures with OpenCV.

python -m benchmarks.degradation [--batches 1 4 16] [--size 512]

Both make LR pictures, a quarter of the side, of the same HR pictures on one thread with the
released settings. The loop is our own restatement of the pipeline on numpy pictures: basicsr's
kernels and noise functions, `cv2.filter2D`, `cv2.resize`, OpenCV's JPEG encoder. Their random
numbers differ, so the time of many draws is summed, and the mean and the deviation of the results
are printed: times of different work compare nothing.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.turns import machine
from gdpo_sr.config.degradation import DegradationOptions, KernelMix, StageOptions
from gdpo_sr.data.degradations import RealESRGANDegradation
from gdpo_sr.utils.basicsr import load

PHOTOS = Path(__file__).resolve().parents[1] / "datasets" / "example" / "val"
SCALE = 4
_MODES = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


class PictureLoop:
    """One picture after the other, (H, W, 3) float32 in [0, 1]."""

    def __init__(self, options: DegradationOptions, seed: int) -> None:
        self.options = options
        self.formulas = load("basicsr.data.degradations")
        random.seed(seed)  # basicsr draws from the global states
        np.random.seed(seed)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The LR picture (H / 4, W / 4, 3)."""
        height, width = image.shape[0] // SCALE, image.shape[1] // SCALE
        first, second = self.options.first, self.options.second
        image = self._blur(image, first)
        image = self._resize(image, *self._factor(first, *image.shape[:2]))
        image = self._jpeg(self._noise(image, first), first)
        if random.random() < second.blur_prob:
            image = self._blur(image, second)
        image = self._resize(image, *self._factor(second, height, width))
        image = self._noise(image, second)
        if random.random() < 0.5:
            image = self._jpeg(self._finish(image, height, width), second)
        else:
            image = self._finish(self._jpeg(image, second), height, width)
        return (image.clip(0, 1) * 255).round() / 255

    def _blur(self, image: np.ndarray, stage: StageOptions) -> np.ndarray:
        size = random.choice(range(7, 22, 2))
        if random.random() < stage.sinc_prob:
            cutoff = random.uniform(np.pi / 3 if size < 13 else np.pi / 5, np.pi)
            return self._sinc(image, cutoff, size)
        mix: KernelMix = self.options.kernel_mix
        weights = mix.model_dump()
        kernel = self.formulas.random_mixed_kernels(
            list(weights),
            list(weights.values()),
            size,
            stage.blur_sigma,
            stage.blur_sigma,
            (-np.pi, np.pi),
            stage.betag_range,
            stage.betap_range,
        )
        return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)

    def _sinc(self, image: np.ndarray, cutoff: float, size: int) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            kernel = self.formulas.circular_lowpass_kernel(cutoff, size)
        return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)

    def _factor(self, stage: StageOptions, height: int, width: int) -> tuple[int, int]:
        low, high = stage.resize_range
        kind = random.choices(("up", "down", "keep"), stage.resize_prob)[0]
        bounds = {"up": (1, high), "down": (low, 1), "keep": (1, 1)}[kind]
        factor = random.uniform(*bounds)
        return int(height * factor), int(width * factor)

    def _resize(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        return cv2.resize(image, (width, height), interpolation=random.choice(_MODES))

    def _noise(self, image: np.ndarray, stage: StageOptions) -> np.ndarray:
        image = image.clip(0, 1)
        if random.random() < stage.gaussian_noise_prob:
            return self.formulas.random_add_gaussian_noise(
                image, stage.noise_range, stage.gray_noise_prob
            )
        return self.formulas.random_add_poisson_noise(
            image, stage.poisson_scale_range, stage.gray_noise_prob
        )

    def _jpeg(self, image: np.ndarray, stage: StageOptions) -> np.ndarray:
        quality = [cv2.IMWRITE_JPEG_QUALITY, round(random.uniform(*stage.jpeg_range))]
        pixels = (image[..., ::-1].clip(0, 1) * 255).round().astype(np.uint8)
        coded = cv2.imencode(".jpg", pixels, quality)[1]
        return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255

    def _finish(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        image = self._resize(image, height, width)
        if random.random() >= self.options.final_sinc_prob:
            return image
        return self._sinc(image, random.uniform(np.pi / 3, np.pi), random.choice(range(7, 22, 2)))


def pictures(count: int, size: int) -> np.ndarray:
    """Centre crops of the example photos, repeated, (count, size, size, 3) float32 in [0, 1]."""
    crops = []
    for path in sorted(PHOTOS.glob("*.jpg")):
        photo = cv2.imread(str(path), cv2.IMREAD_COLOR)
        top, left = ((side - size) // 2 for side in photo.shape[:2])
        if min(top, left) >= 0:
            crops.append(photo[top : top + size, left : left + size, ::-1])
    if not crops:
        raise SystemExit(f"{PHOTOS}: no photo of {size} px: use a smaller --size")
    return np.stack([crops[i % len(crops)] for i in range(count)]).astype(np.float32) / 255


def outputs(batch: int, size: int) -> dict[str, Iterator[np.ndarray]]:
    """Endless results (batch, h, w, 3) of both; each `next` does the work."""
    options = DegradationOptions.model_validate({})
    hr = pictures(batch, size)
    tensor = torch.from_numpy(hr).permute(0, 3, 1, 2).contiguous()
    degrade, rng = RealESRGANDegradation(options, SCALE), torch.Generator().manual_seed(0)
    loop = PictureLoop(options, 0)

    def of_loop() -> Iterator[np.ndarray]:
        while True:
            yield np.stack([loop(image) for image in hr])

    def ours() -> Iterator[np.ndarray]:
        while True:
            yield degrade(tensor, rng).permute(0, 2, 3, 1).numpy()

    return {"loop over pictures": of_loop(), "`RealESRGANDegradation`": ours()}


def measure(batch: int, size: int, runs: int) -> dict[str, tuple[float, float, float]]:
    """Pictures per second of CPU time, mean and deviation of the results; both in turns.

    The work depends on the draws, so the time of all runs counts and not their median.
    """
    sources = outputs(batch, size)
    seconds, moments = dict.fromkeys(sources, 0.0), {name: [] for name in sources}
    for source in sources.values():
        next(source)
    for _ in range(runs):
        for name, source in sources.items():
            start = time.process_time()
            result = next(source)
            seconds[name] += time.process_time() - start
            moments[name].append((result.mean(), result.std(axis=(1, 2, 3)).mean()))
    return {
        name: (runs * batch / seconds[name], *np.mean(moments[name], axis=0)) for name in sources
    }


def table(found: dict[int, dict[str, tuple[float, float, float]]]) -> str:
    """Markdown table; the ratio is to the loop at the same batch."""
    lines = ["| batch | | pictures per CPU second | times as fast | mean | deviation |"]
    lines.append("|---|---|---|---|---|---|")
    for batch, rows in found.items():
        base = next(iter(rows.values()))[0]
        for name, (rate, mean, spread) in rows.items():
            numbers = f"{rate:.2f} | {rate / base:.2f} | {mean:.3f} | {spread:.3f}"
            lines.append(f"| {batch} | {name} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--size", type=int, default=512, help="of the HR pictures, pixels (512)")
    parser.add_argument("--pictures", type=int, default=64, help="timed at every batch (64)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    found = {b: measure(b, args.size, max(args.pictures // b, 1)) for b in args.batches}
    print(f"{machine('torch', 'numpy', 'basicsr')}, OpenCV {cv2.__version__}\n\n{table(found)}")


if __name__ == "__main__":
    main()
