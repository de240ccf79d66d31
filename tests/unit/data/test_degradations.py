"""The degradation: released settings, one generator, 8-bit output, bad input."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from gdpo_sr.config.degradation import DegradationOptions
from gdpo_sr.data import degradation_steps
from gdpo_sr.data.degradation_steps import (
    Blur,
    Jpeg,
    Resize,
    apply_steps,
    gaussian_noise,
    grey_of,
    poisson_noise,
)
from gdpo_sr.data.degradations import RealESRGANDegradation, _noise
from gdpo_sr.data.draws import chance, child_generators, generator_for, uniform_per_sample
from gdpo_sr.types import ImageError
from gdpo_sr.utils.basicsr import load


@pytest.fixture(scope="module")
def hr() -> torch.Tensor:
    """Two smooth pictures with some texture, (2, 3, 64, 96)."""
    rows, columns = torch.meshgrid(
        torch.linspace(0, 1, 64), torch.linspace(0, 1, 96), indexing="ij"
    )
    texture = 0.1 * torch.rand(2, 3, 64, 96, generator=generator_for("hr"))
    return (0.4 * rows + 0.4 * columns + texture).clamp(0, 1)


def degrade(hr: torch.Tensor, seed: int, **options: object) -> torch.Tensor:
    return RealESRGANDegradation(DegradationOptions(**options))(hr, generator_for(seed))


def with_noise(image: torch.Tensor, stage, rng: torch.Generator) -> torch.Tensor:
    return apply_steps([_noise(len(image), stage, rng)], image)


@pytest.fixture
def batched(monkeypatch):
    """The form for a GPU, on this CPU."""
    monkeypatch.setattr(degradation_steps, "_on_cpu", lambda image: False)


@pytest.mark.parametrize("seed", range(12))
def test_output_is_a_small_8_bit_picture(hr, seed):
    lr = degrade(hr, seed)
    assert lr.shape == (2, 3, 16, 24) and lr.dtype == torch.float32
    assert torch.isfinite(lr).all() and lr.min() >= 0 and lr.max() <= 1
    torch.testing.assert_close(lr * 255, (lr * 255).round(), rtol=0, atol=1e-4)
    small = torch.nn.functional.interpolate(hr, scale_factor=0.25, mode="area")
    assert (lr - small).abs().mean() < 0.15  # degraded, but the same picture


def test_seed_decides_and_global_random_state_is_untouched(hr):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, again, other = degrade(hr, 5), degrade(hr, 5), degrade(hr, 6)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_input_is_not_changed_and_global_state_does_not_matter(hr):
    copy = hr.clone()
    first = degrade(hr, 2)
    torch.manual_seed(123)
    np.random.seed(123)
    assert torch.equal(degrade(hr, 2), first) and torch.equal(hr, copy)


def test_pictures_of_a_batch_are_degraded_differently(hr):
    lr = degrade(hr[:1].expand(2, -1, -1, -1), 0)
    assert not torch.equal(lr[0], lr[1])


@pytest.mark.parametrize("gaussian", [0.0, 1.0])
def test_the_stream_after_a_picture_does_not_depend_on_its_pixels(hr, gaussian):
    """Poisson sampling uses up more or fewer draws according to the pixels."""
    stage = {"gaussian_noise_prob": gaussian}
    after = []
    for picture in (hr, hr.flip(-1) ** 2):
        generator = generator_for(0)
        degradation = RealESRGANDegradation(DegradationOptions(first=stage, second=stage))
        degradation(picture, generator)
        after.append(torch.rand(1, generator=generator))
    assert torch.equal(*after)


def test_memory_format_does_not_matter(hr):
    assert torch.equal(degrade(hr.to(memory_format=torch.channels_last), 3), degrade(hr, 3))


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_scale(hr, scale):
    lr = RealESRGANDegradation(scale=scale)(hr, generator_for(0))
    assert lr.shape == (2, 3, 64 // scale, 96 // scale)


def test_best_jpeg_quality_is_finite(hr):
    """Quality 100 would divide by quantisation tables of zeros."""
    options = {"first": {"jpeg_range": (100, 100)}, "second": {"jpeg_range": (100, 100)}}
    assert torch.isfinite(degrade(hr, 0, **options)).all()


def test_no_colour_fringe_from_jpeg_padding():
    """A flat picture without noise stays flat up to its edges, though 60 is no multiple of 16."""
    calm = {"noise_range": (0, 0), "gaussian_noise_prob": 1.0, "sinc_prob": 0.0}
    flat = torch.full((1, 3, 60, 60), 0.5)
    flat[:, 0] = 0.8
    lr = degrade(flat, 1, first=calm, second=calm, final_sinc_prob=0.0)
    assert (lr - flat[..., :1, :1]).abs().max() < 0.02


@pytest.mark.parametrize("kind", [0.0, 1.0])
def test_grey_noise_is_equal_in_all_channels(kind):
    image = torch.full((2, 3, 32, 32), 0.5)
    image[..., :16] = 0.4
    grey, colour = (
        DegradationOptions(first={"gray_noise_prob": p, "gaussian_noise_prob": kind}).first
        for p in (1.0, 0.0)
    )
    noise = with_noise(image, grey, generator_for(1)) - image
    assert noise.abs().max() > 0
    torch.testing.assert_close(noise[:, 0], noise[:, 2], rtol=0, atol=1e-6)
    noise = with_noise(image, colour, generator_for(1)) - image
    assert not torch.allclose(noise[:, 0], noise[:, 2], atol=1e-3)


def test_gaussian_noise_has_the_asked_sigma():
    stage = DegradationOptions(
        first={"gaussian_noise_prob": 1.0, "noise_range": (10, 10), "gray_noise_prob": 0.0}
    ).first
    image = torch.full((1, 3, 128, 128), 0.5)
    noise = (with_noise(image, stage, generator_for(0)) - image) * 255
    assert noise.std().item() == pytest.approx(10, rel=0.02)


def test_poisson_noise_has_the_variance_of_its_photon_count():
    """Two levels give 2 photons at white, so white has variance 2 / 2**2 = 0.5 and black none."""
    image = torch.zeros(1, 128, 256)
    image[..., 128:] = 1.0
    noise = poisson_noise(image, generator_for(0))
    assert noise[..., :128].abs().max() == 0
    assert noise[..., 128:].var().item() == pytest.approx(0.5, rel=0.05)


def test_two_degradations_do_not_share_jpeg_tables(hr):
    """basicsr's tables are module globals: moving one codec to a device would move all."""
    one, two = RealESRGANDegradation(), RealESRGANDegradation()
    device = torch.device("cpu")
    tables = [d._codec(device).compress.y_quantize.y_table for d in (one, two)]
    assert tables[0].data_ptr() != tables[1].data_ptr()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (torch.rand(3, 64, 64), "pass float"),
        (torch.rand(1, 1, 64, 64), "pass float"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "pass float"),
        (torch.rand(1, 3, 66, 64), "not divisible by scale 4"),
        (torch.rand(1, 3, 40, 64), "44 px at least"),
    ],
)
def test_bad_pictures(picture, message):
    with pytest.raises(ImageError, match=message):
        RealESRGANDegradation()(picture, generator_for(0))


def test_smallest_size_works():
    degradation = RealESRGANDegradation()
    size = degradation.smallest_size()
    for seed in range(20):
        lr = degradation(torch.rand(1, 3, size, size), generator_for(seed))
        assert lr.shape[-1] == size // 4


def test_light_degradation_is_nearer_to_plain_downscaling(hr):
    plain = torch.nn.functional.avg_pool2d(hr, 4)

    def error(share: float) -> float:
        errors = [
            (degrade(hr, seed, light_prob=share) - plain).square().mean() for seed in range(12)
        ]
        return float(torch.stack(errors).mean())

    assert error(1.0) < 0.3 * error(0.0)
    assert error(1.0) < error(0.5) < error(0.0)


def test_released_settings():
    options = DegradationOptions()
    assert options.model_dump() == {
        "light_prob": 0.0,
        "first": {
            "blur_prob": 1.0,
            "sinc_prob": 0.1,
            "blur_sigma": (0.2, 3.0),
            "betag_range": (0.5, 4.0),
            "betap_range": (1.0, 2.0),
            "resize_prob": (0.2, 0.7, 0.1),
            "resize_range": (0.3, 1.5),
            "gaussian_noise_prob": 0.5,
            "noise_range": (1.0, 15.0),
            "poisson_scale_range": (0.05, 2.0),
            "gray_noise_prob": 0.4,
            "jpeg_range": (60.0, 95.0),
        },
        "second": {
            "blur_prob": 0.5,
            "sinc_prob": 0.1,
            "blur_sigma": (0.2, 1.5),
            "betag_range": (0.5, 4.0),
            "betap_range": (1.0, 2.0),
            "resize_prob": (0.3, 0.4, 0.3),
            "resize_range": (0.6, 1.2),
            "gaussian_noise_prob": 0.5,
            "noise_range": (1.0, 12.0),
            "poisson_scale_range": (0.05, 1.0),
            "gray_noise_prob": 0.4,
            "jpeg_range": (60.0, 100.0),
        },
        "final_sinc_prob": 0.8,
        "kernel_size_range": (7, 21),
        "kernel_mix": {
            "iso": 0.45,
            "aniso": 0.25,
            "generalized_iso": 0.12,
            "generalized_aniso": 0.03,
            "plateau_iso": 0.12,
            "plateau_aniso": 0.03,
        },
    }


def test_a_partly_given_second_stage_keeps_the_other_second_stage_defaults():
    options = DegradationOptions.model_validate({"second": {"blur_prob": 1.0}})
    assert options.second.noise_range == (1.0, 12.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"final_sinc_prob": 1.5}, "less than or equal to 1"),
        ({"first": {"noise_range": (5, 1)}}, "upside down"),
        ({"first": {"resize_range": (1.2, 1.5)}}, "must contain 1"),
        ({"first": {"resize_prob": (0, 0, 0)}}, "sum to 0"),
        ({"first": {"jpeg_range": (0, 95)}}, "greater than or equal to 1"),
        ({"first": {"blur_sigma": (0, 3)}}, "greater than 0"),
        ({"first": {"noise_range": (1, float("nan"))}}, "finite number"),
        ({"kernel_size_range": (7, 23)}, "less than or equal to 21"),
        ({"kernel_size_range": (8, 20)}, "must be odd"),
        ({"kernel_mix": {"gaussian": 1}}, "Extra inputs"),
        ({"secnd": {}}, "Extra inputs"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValidationError, match=message):
        DegradationOptions.model_validate(options)


def test_kernel_mix_needs_a_kernel():
    weights = dict.fromkeys(DegradationOptions().kernel_mix.model_dump(), 0.0)
    with pytest.raises(ValidationError, match="0 for every kernel"):
        DegradationOptions.model_validate({"kernel_mix": weights})


@pytest.mark.parametrize("kind", ["blur", "sinc", "pulse", "delta", "separable", "turned"])
def test_opencv_filters_as_torch_does(kind: str):
    """Mirrored borders, correlation, whole kernels, those with a zero margin and products of a
    column and a row.
    """
    rng = torch.Generator().manual_seed(3)
    picture = torch.rand(2, 3, 40, 33, generator=rng)
    kernels = [torch.rand(21, 21, generator=rng) for _ in range(2)]
    if kind == "sinc":
        kernels = [kernel - 0.5 for kernel in kernels]
    if kind in ("pulse", "delta"):
        reach = 3 if kind == "pulse" else 0
        mask = torch.zeros(21, 21)
        mask[10 - reach : 11 + reach, 10 - reach : 11 + reach] = 1
        kernels = [kernel * mask for kernel in kernels]
    if kind == "separable":
        kernels = [torch.outer(kernel[0], kernel[1]) for kernel in kernels]
    if kind == "turned":
        kernels = [kernel + kernel.T + torch.eye(21) for kernel in kernels]
    kernels = [kernel / kernel.abs().sum() for kernel in kernels]
    expected = load("basicsr.utils.img_process_util").filter2D(picture, torch.stack(kernels))
    torch.testing.assert_close(apply_steps([Blur(kernels)], picture), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(64, 96), (20, 33), (83, 101), (64, 40)])
def test_sizes_are_torchs(hr, mode: str, size: tuple[int, int]):
    """OpenCV keeps the places of pixels in float32, so the two agree to 1e-4."""
    expected = torch.nn.functional.interpolate(hr, size=size, mode=mode)
    found = apply_steps([Resize(size, mode)], hr)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_jpeg_is_diffjpegs(hr):
    """Of several qualities in one batch, sides that are no whole blocks."""
    pictures = hr[:1, :, :50, :70].repeat(5, 1, 1, 1)
    quality = torch.tensor([20.0, 49.0, 60.0, 82.5, 95.0])
    codec = RealESRGANDegradation()._codec(torch.device("cpu"))
    found = apply_steps([Jpeg(quality, codec)], pictures)
    blocks = torch.nn.functional.pad(pictures, (0, 10, 0, 14), mode="replicate")
    expected = codec(blocks, quality=quality.clone())[..., :50, :70]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - pictures).abs().mean() > 0.01  # it does compress
    assert quality[0] == 20.0


@pytest.mark.parametrize("seed", range(6))
def test_a_picture_alone_is_what_it_is_in_the_batched_form(hr, seed: int, request):
    """The whole degradation; Poisson noise, which may start from other levels, is left out."""
    stage = {"gaussian_noise_prob": 1.0}
    found = degrade(hr, seed, first=stage, second=stage)
    request.getfixturevalue("batched")
    apart = (degrade(hr, seed, first=stage, second=stage) - found).abs() * 255
    assert apart.max() < 4 and (apart > 0.5).float().mean() < 0.01


def test_poisson_noise_has_the_same_statistics_in_both_forms(hr, request):
    stage = {"gaussian_noise_prob": 0.0}

    def moments() -> torch.Tensor:
        results = [degrade(hr, seed, first=stage, second=stage) for seed in range(16)]
        return torch.stack([torch.stack([r.mean(), r.std()]) for r in results]).mean(0)

    found = moments()
    request.getfixturevalue("batched")
    torch.testing.assert_close(found, moments(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("gaussian", [True, False])
def test_noise_is_drawn_as_before(gaussian: bool):
    """Grey and coloured from one source each, one after the other; grey pictures use the first."""
    stage = DegradationOptions().first.model_copy(
        update={"gaussian_noise_prob": float(gaussian), "gray_noise_prob": 0.5}
    )
    pictures = torch.rand(6, 3, 20, 20, generator=torch.Generator().manual_seed(5))
    found = with_noise(pictures, stage, torch.Generator().manual_seed(6))
    rng = torch.Generator().manual_seed(6)
    chance(float(gaussian), rng)
    bounds = stage.noise_range if gaussian else stage.poisson_scale_range
    strength = uniform_per_sample(6, bounds, rng)
    is_grey = uniform_per_sample(6, (0.0, 1.0), rng) < 0.5
    assert 0 < is_grey.sum() < 6
    draw = gaussian_noise if gaussian else poisson_noise
    sources = zip(pictures, child_generators(6, rng), strict=True)
    drawn = [(draw(grey_of(p), g), draw(p, g)) for p, g in sources]
    grey, coloured = (torch.stack(kind) for kind in zip(*drawn, strict=True))
    noise = strength * torch.where(is_grey, grey, coloured)
    assert torch.equal(found, (pictures + noise).clamp(0, 1))


def test_photons_count_the_levels():
    """2 to the power that covers the number of 8-bit levels, as torch.unique counts them."""
    levels = torch.tensor([0.0, 0.1, 0.1, 0.5, 1.0]).repeat(3, 4, 1)
    found = poisson_noise(levels, torch.Generator().manual_seed(0))
    rounded = (levels * 255).round() / 255
    expected = torch.poisson(rounded * 4, generator=torch.Generator().manual_seed(0)) / 4 - rounded
    assert torch.equal(found, expected)
