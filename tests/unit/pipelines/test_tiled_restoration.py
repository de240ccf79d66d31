"""Tiled equals untiled where it must, and its borders cannot be seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

from benchmarks.tile_seams import border_contrast
from gdpo_sr import OneStepSRPipeline
from gdpo_sr.pipelines import tiled_restoration
from gdpo_sr.pipelines.memory_limits import Tiling, first_that_fits, is_shortage, plan_tilings
from gdpo_sr.types import ImageError
from gdpo_sr.utils.image_io import read_image
from gdpo_sr.utils.tiling import TileGrid
from tests.tiny_base import tiny_base

PHOTO = Path(__file__).parents[3] / "datasets" / "example" / "val" / "forest_stream.jpg"


@pytest.fixture
def pipe(tmp_path: Path) -> OneStepSRPipeline:
    return OneStepSRPipeline.from_pretrained(tiny_base(tmp_path / "base"))


class LocalUNet(UNet2DConditionModel):
    """Looks two latent pixels far, at the noisy latent only, and has no norms."""

    def forward(self, sample, timestep, encoder_hidden_states):
        kernel = torch.linspace(-0.4, 0.6, 25).reshape(1, 1, 5, 5).expand(sample.shape[1], 1, 5, 5)
        blurred = F.conv2d(sample, kernel.contiguous(), padding=2, groups=sample.shape[1])
        return type("Output", (), {"sample": torch.tanh(blurred)})


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def restore(pipe: OneStepSRPipeline, image: torch.Tensor, **options) -> torch.Tensor:
    return pipe(image, generator=rng(), output_type="pt", **options).images


@pytest.mark.parametrize("color_fix", ["wavelet", "adain", "none"])
@pytest.mark.parametrize("size", [(30, 61), (80, 33)])
def test_a_local_network_makes_no_difference(
    pipe: OneStepSRPipeline, color_fix: str, size: tuple[int, int]
):
    """Its reach stays inside the quarter of the overlap that is not blended, so tiled equals
    untiled to 1e-5 everywhere; with noise drawn per tile, or a colour fix per tile, it would not.
    """
    pipe.unet.__class__ = LocalUNet
    image = torch.rand(3, *size, generator=rng(1))
    options = {"color_fix": color_fix, "num_candidates": 2}
    whole = restore(pipe, image, tile=0, **options)
    for tile, overlap, batch in ((36, 16, 1), (48, 20, 3)):
        tiled = restore(pipe, image, tile=tile, tile_overlap=overlap, batch_size=batch, **options)
        torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


def test_no_seam_with_a_real_network():
    """`mini` sees far beyond a tile, so a tile differs from the whole picture inside too.

    With overlap the difference stays small, and changes across the borders no more than between
    other latent pixels (factor 1.5); hard borders, without overlap, are far beyond that, so the
    measure sees seams.
    """
    pipe = OneStepSRPipeline.from_pretrained("mini")
    image = read_image(PHOTO)[:, 40:120, 30:102]
    whole = restore(pipe, image, tile=0)[0]
    contrasts = {}
    for overlap in (0, 12):
        tiled = restore(pipe, image, tile=32, tile_overlap=overlap)[0]
        grid = TileGrid(*whole.shape[1:], 32 * 4, overlap * 4, pipe.generator.size_multiple)
        difference = tiled - whole
        contrasts[overlap] = border_contrast(difference, grid, 4)
        seam = border_contrast(tiled, grid, 4) / border_contrast(whole, grid, 4)
        assert overlap == 0 or (difference.abs().mean() < 4 / 255 and 0.9 < seam < 1.1)
    assert contrasts[12] < 1.5 < 2.5 < contrasts[0]


def test_batches_do_not_matter(pipe: OneStepSRPipeline):
    images = torch.rand(3, 3, 30, 22, generator=rng(1))
    single = restore(pipe, images, tile=16, tile_overlap=4)
    batched = restore(pipe, images, tile=16, tile_overlap=4, batch_size=4)
    torch.testing.assert_close(batched, single, atol=1e-4, rtol=0)


def test_tiles_reach_over_every_size(pipe: OneStepSRPipeline):
    for size in ((1, 90), (90, 1), (33, 34)):
        image = torch.rand(3, *size, generator=rng(1))
        whole, tiled = restore(pipe, image), restore(pipe, image, tile=16, tile_overlap=4)
        assert tiled.shape == whole.shape and 0 < (tiled - whole).abs().mean() < 0.1


def test_only_one_row_of_tiles_is_held(pipe: OneStepSRPipeline, monkeypatch):
    """A picture three times as high needs no larger band."""
    sizes = []
    zeros = torch.zeros
    spy = lambda *a, **k: sizes.append(zeros(*a, **k)) or sizes[-1]  # noqa: E731
    monkeypatch.setattr(tiled_restoration.torch, "zeros", spy)
    largest = []
    for height in (40, 120):
        sizes.clear()
        restore(pipe, torch.rand(3, height, 20, generator=rng(1)), tile=16, tile_overlap=4)
        largest.append(max(s.numel() for s in sizes if s.ndim == 5))
    assert largest[0] == largest[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tiles_that_are_not_finite_are_computed_in_float32(
    pipe: OneStepSRPipeline, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
):
    """The second tile's half-precision result is spoilt: only it is computed again."""
    image = torch.rand(3, 12, 40, generator=rng(1))
    usual = restore(pipe, image, tile=24, tile_overlap=4)
    pipe.to(dtype)
    forward, calls = pipe.unet.forward, []

    def spoilt(sample, *args, **options):
        calls.append(sample.dtype)
        output = forward(sample, *args, **options)
        if len(calls) == 2:
            output.sample[:, :, 0, 0] = torch.inf
        return output

    pipe.unet.forward = spoilt
    result = restore(pipe, image, tile=24, tile_overlap=4)
    assert calls == [dtype, dtype, torch.float32]
    assert result.isfinite().all() and (result - usual).abs().mean() < 1e-2
    assert pipe.unet.dtype == dtype and "1 tiles were not finite" in caplog.text


def test_float32_that_is_not_finite_is_an_error(pipe: OneStepSRPipeline):
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(torch.nan)
    with pytest.raises(ImageError, match="NaN or infinity, in float32 too"):
        pipe(torch.rand(3, 8, 8))


def test_smaller_tiles_when_memory_runs_out(pipe: OneStepSRPipeline, monkeypatch):
    """Tiles above 32 latent pixels "do not fit": halves are tried, as if they were asked for."""
    image = torch.rand(3, 60, 40, generator=rng(1))
    expected = restore(pipe, image, tile=30, tile_overlap=7)
    forward = pipe.unet.forward

    def small_only(sample, *args, **options):
        if max(sample.shape[-2:]) > 32:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(sample, *args, **options)

    monkeypatch.setattr(pipe.unet, "forward", small_only)
    assert torch.equal(restore(pipe, image, tile=64, tile_overlap=16, batch_size=2), expected)
    tilings = list(plan_tilings(60, 60, 16, 4))
    assert [(t.tile, t.overlap, t.batch_size) for t in tilings] == [
        (60, 16, 4),
        (60, 16, 1),
        (30, 7, 1),
    ]


def test_which_errors_mean_too_little_memory():
    assert is_shortage(MemoryError()) and is_shortage(torch.cuda.OutOfMemoryError("x"))
    assert is_shortage(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_shortage(RuntimeError("shapes differ"))


def test_no_tiling_fits():
    def attempt(tiling: Tiling) -> None:
        raise MemoryError

    with pytest.raises(ImageError, match="too little memory for tiles of 16, 1 at a time; free"):
        first_that_fits(attempt, plan_tilings(64, None, 16, 1))
    with pytest.raises(RuntimeError, match="invalid"):
        first_that_fits(lambda tiling: torch.zeros(2).view(3), plan_tilings(8, 0, 0, 1))
