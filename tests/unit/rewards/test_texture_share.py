"""The textured share of a picture against recordings of the released code."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gdpo_sr.rewards.content_weights import texture_ratio
from gdpo_sr.rewards.patch_texture import (
    entropy_bits,
    gradient_counts,
    least_complexity,
    least_entropy_bits,
    patch_complexity,
    steepest,
)
from gdpo_sr.rewards.texture_share import (
    GREY_WEIGHTS,
    complexity_map,
    texture_share,
    textured_patches,
    to_grey,
)
from gdpo_sr.utils.image_io import read_image

CROPS = "astronaut chelsea coffee brick gravel grass camera rocket flat noise".split()
REALSR = ["Canon_001_LR4.png", "Canon_025_LR4.png", "Canon_049_LR4.png", "Nikon_023_LR4.png"]
ORDERS = ("bgr", "rgb")  # the released code's channel swap, and the right order


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Bytes (H, W, 3) -> (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def recorded_row(golden, name: str) -> dict:
    rows = json.loads(golden("regions.json").read_text())["rows"]
    return next(row for row in rows if row["image"] == name)


def recorded_ratio(row: dict, order: str) -> float:
    return (row if order == "bgr" else row["rgb_order_fixed"])["detail_unrounded"]


def crop(golden, name: str) -> torch.Tensor:
    return to_tensor(np.load(golden("regions_crops.npz"))[f"crop__{name}"])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CROPS)
def test_recorded_crops(golden, name: str, order: str):
    expected = recorded_ratio(recorded_row(golden, f"crop/{name}"), order)
    assert float(texture_share(crop(golden, name), grey=order)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", CROPS)
def test_recorded_patches(golden, name: str):
    """Entropy times area of each patch. A gradient on the edge of a histogram bin may fall on
    either side and move one of 4096 counts, in fewer than one patch of a hundred.
    """
    recorded = torch.from_numpy(np.load(golden("regions_patches.npz"))[f"crop__{name}"])
    ours = complexity_map(to_grey(crop(golden, name), "bgr"))[0].double()
    error = (ours - recorded).abs()
    assert error.shape == recorded.shape and error.max() < 0.1
    assert (error > 1e-3).sum() <= 1 + 0.01 * error.numel()


@pytest.mark.parametrize("name", REALSR)
def test_recorded_photos(golden, shared_dir, name: str):
    """Whole 512x512 HR photos of RealSR, in both channel orders."""
    path = shared_dir / "bench" / "realsr" / "HR" / name
    if not path.is_file():
        pytest.skip(f"needs ../shared/bench/realsr/HR/{name}")
    row = recorded_row(golden, f"realsr_hr/{name}")
    image = read_image(path)
    pixels = (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == row["rgb_sha256"]
    for order in ORDERS:
        ours = float(texture_share(image[None], grey=order))
        assert ours == pytest.approx(recorded_ratio(row, order), abs=1e-3)


def test_grey_levels_of_the_recording(golden):
    """The 8-bit grey picture equals, byte for byte, what the released code works on."""
    for name in CROPS:
        grey = (to_grey(crop(golden, name), "bgr")[0] * 255).round().byte().numpy()
        expected = recorded_row(golden, f"crop/{name}")["gray_used_sha256_u8"]
        assert hashlib.sha256(grey.tobytes()).hexdigest() == expected, name


def noise_picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_flat_is_smooth_and_noise_is_texture():
    assert float(texture_share(torch.full((1, 3, 60, 60), 0.4))) == 0
    assert float(texture_share(noise_picture(60, 60))) == 1


def test_half_and_half():
    image = torch.full((1, 3, 40, 40), 0.4)
    image[..., :20] = noise_picture(40, 20)
    assert float(texture_share(image)) == pytest.approx(0.5, abs=1e-6)


def test_border_strips_count_by_their_area():
    """42 = 4 * 10 + 2: the 10x10 patches of noise reach 50, a strip of 2x10 needs 2.5 bits and the
    corner of 2x2 12.5 bits, more than 256 bins can hold.
    """
    ratio = float(texture_share(noise_picture(42, 42)))
    assert 40 * 40 / 42**2 <= ratio + 1e-6 <= 1 - 4 / 42**2 + 2e-6


@pytest.mark.parametrize("side", [31, 41])
def test_a_strip_of_one_pixel(side: int):
    """Its entropy cannot reach 5 bits, that of one pixel is 0."""
    faint = noise_picture(side, side) * 0.02 + 0.5
    assert float(texture_share(faint)) == 0
    assert float(texture_share(faint, threshold=-1)) == 1
    share = float(texture_share(noise_picture(side, side)))
    assert (side - 1) ** 2 / side**2 <= share + 1e-6 < 1


def test_a_picture_smaller_than_a_patch():
    assert 0 <= float(texture_share(noise_picture(7, 5))) <= 1


def test_a_batch_equals_its_pictures():
    images = torch.cat(
        [noise_picture(53, 47), noise_picture(53, 47, 1) * 0.1, noise_picture(53, 47, 2)]
    )
    images[2, :, 20:] = 0.5
    alone = torch.cat([texture_share(image[None]) for image in images])
    assert torch.equal(texture_share(images), alone)
    assert 0 < alone[2] < 1


def test_autocast_does_not_change_the_ratio(golden):
    """The step runs under autocast in mixed precision; entropies in bfloat16 would differ."""
    image = crop(golden, "camera")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ratio = texture_share(image)
    assert torch.equal(ratio, texture_share(image))


def test_threshold_and_the_name_for_programs_outside():
    image = noise_picture(40, 40)
    assert float(texture_share(image, threshold=1e4)) == 0
    assert texture_ratio is texture_share


def test_the_default_threshold_is_half_a_bit_per_pixel_of_a_whole_patch():
    """A faint slope of which a patch has between 0 and 50 of entropy times area is smooth."""
    faint = noise_picture(40, 160) * torch.linspace(0, 0.06, 160) + 0.4
    complexity = complexity_map(to_grey(faint))
    near = (complexity > 40) & (complexity < 60)
    assert near.any()
    assert torch.equal(textured_patches(faint), complexity > 50)
    assert torch.equal(textured_patches(faint, grey="bgr"),
                       complexity_map(to_grey(faint, "bgr")) > 50)  # fmt: skip


def test_grey_weights_are_those_of_opencv():
    """0.299 and 0.587 in units of 2^-15, and what is left of 1."""
    red, green = round(0.299 * 2**15), round(0.587 * 2**15)
    assert GREY_WEIGHTS["rgb"] == (red, green, 2**15 - red - green)
    assert GREY_WEIGHTS["bgr"] == GREY_WEIGHTS["rgb"][::-1]


def test_grey_by_hand():
    """Levels (255, 0, 0), (0, 255, 0), (0, 0, 255): 76.2, 149.7 and 29.1 round to 76, 150, 29."""
    colours = torch.eye(3)[None, :, :, None]
    levels = (to_grey(colours) * 255).flatten().tolist()
    assert levels == pytest.approx([76, 150, 29])
    assert (to_grey(colours, "bgr") * 255).flatten().tolist() == pytest.approx([29, 150, 76])


def test_values_outside_the_range_are_black_or_white():
    pictures = torch.tensor([-0.1, 1.02]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert to_grey(pictures).flatten().tolist() == [0, 1]


def test_unknown_channel_order():
    with pytest.raises(ValueError, match="grey = 'gbr'"):
        texture_share(noise_picture(20, 20), grey="gbr")


@pytest.mark.parametrize("patch_size", [3, 10, 80])
@pytest.mark.parametrize("threshold", [-1.0, 0.0, 5.0, 50.0, 200.0])
def test_bounds_decide_as_the_complexity_does(golden, patch_size: int, threshold: float):
    """Where a bound spares the computation, the computation would have said the same."""
    faint = noise_picture(53, 160) * torch.linspace(0, 0.2, 160) + 0.3
    for images in (crop(golden, "camera"), crop(golden, "coffee"), faint):
        complexity = complexity_map(to_grey(images), patch_size)
        decided = textured_patches(images, patch_size, threshold)
        assert torch.equal(decided, complexity > threshold)


def test_bounds_hold_for_the_entropy():
    faint = noise_picture(200, 200) * torch.linspace(0, 0.2, 200) + 0.3
    patches = to_grey(faint).unfold(1, 10, 10).unfold(2, 10, 10).reshape(-1, 10, 10)
    complexity = patch_complexity(patches)
    flat = steepest(patches) < 0.999
    assert (least_complexity(patches) < complexity).all()
    assert flat.any() and not flat.all() and (complexity[flat] == 0).all()


@pytest.mark.parametrize("shape", [(10, 10), (3, 10), (10, 3)])
def test_the_bound_by_its_definition(shape: tuple[int, int]):
    """0.01 bits less than the least entropy of 64 x 64 values of which a part is known."""
    patches = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    counts = gradient_counts(patches, (4, 2))
    expected = (least_entropy_bits(counts, 4096) - 0.01) * shape[0] * shape[1]
    torch.testing.assert_close(least_complexity(patches), expected)


def test_steepest_by_hand():
    """Of a step of 1 over 2 of 64 pixels, 8 * 2 / 64 in bins of 11 / 512."""
    assert steepest(torch.tensor([[[0.0, 1.0]]])).tolist() == pytest.approx([0.25 * 512 / 11])
    assert steepest(torch.tensor([[[0.0], [1.0]]])).tolist() == pytest.approx([0.25 * 512 / 11])


def test_least_entropy_of_a_histogram_by_hand():
    """Two of four values are known, one in each of two bins: the least is (3, 1), 0.811 bits."""
    counts = torch.tensor([[1, 1, 0]])
    assert entropy_bits(counts).tolist() == [1.0]
    assert least_entropy_bits(counts, 4).tolist() == pytest.approx([0.811278], abs=1e-5)


def plain_counts(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Histogram (N, 256) of the Sobel magnitude as the procedure reads, in float64; also the number
    of gradients (N,) within 1e-5 bin of an edge, which rounding may move.
    """
    enlarged = F.interpolate(patches[:, None].double(), size=(64, 64), mode="bilinear")
    padded = F.pad(enlarged, (1, 1, 1, 1), mode="replicate")
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
    taps = torch.stack([across, across.T])[:, None]
    bins = F.conv2d(padded, taps).square().sum(1).sqrt().flatten(1) / (11 / 512)
    counts = torch.stack([torch.bincount(row.int(), minlength=256) for row in bins])
    near = ((bins - bins.round()).abs() < 1e-5) & (bins > 0.5)
    return counts, near.sum(1)


@pytest.mark.parametrize("contrast", [0.005, 0.02, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("shape", [(10, 10), (10, 3), (1, 10), (80, 70)])
def test_counts_are_those_of_the_plain_procedure(shape: tuple[int, int], contrast: float):
    """Few bins are counted in one way, many in another; both as a histogram is defined."""
    rng = torch.Generator().manual_seed(0)
    patches = torch.rand(9, *shape, generator=rng) * contrast
    expected, at_an_edge = plain_counts(patches)
    counts = gradient_counts(patches)
    counts = F.pad(counts, (0, 256 - counts.shape[1])).long()
    assert torch.equal(counts.sum(1), torch.full((9,), 64 * 64))
    moved = (counts - expected).abs().sum(1)
    assert (moved <= 2 * at_an_edge).all()


def test_no_patches():
    nothing = torch.zeros(0, 10, 10)
    assert patch_complexity(nothing).shape == least_complexity(nothing).shape == (0,)
