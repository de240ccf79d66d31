"""Alpha, grey, 16 bits and profiles: what a file is besides RGB, in and out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from gdpo_sr.utils.icc import srgb_profile
from gdpo_sr.utils.image_decode import decode
from gdpo_sr.utils.image_io import image_size, read_image, write_pixels
from gdpo_sr.utils.picture_modes import fill_transparent, load_picture, to_profile
from tests.icc_profiles import grey_profile, rgb_profile


def deep(channels: int, height: int = 6, width: int = 9) -> np.ndarray:
    shape = (height, width, channels)
    return np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_exact(tmp_path: Path, suffix: str, channels: int):
    """Written and read back without losing a step of 1 / 65535; OpenCV reads the same."""
    pixels = deep(channels)
    path = tmp_path / f"a{suffix}"
    write_pixels(path, pixels, icc=srgb_profile() if channels > 2 else None)
    found = decode(path)
    if (suffix, channels) == (".tif", 2):  # written as RGBA
        pixels = pixels[..., [0, 0, 0, 1]]
    assert found.bits == 16
    assert np.array_equal(np.rint(found.pixels * 65535).astype(np.uint16), pixels)
    assert (found.icc == srgb_profile()) is (channels > 2)
    if channels > 2:
        other = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(other[..., [2, 1, 0, 3][:channels]], pixels)
        assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_pictures_are_turned_upright(tmp_path: Path, orientation: int):
    """As Pillow turns the same picture with 8 bits."""
    small = (deep(3) >> 8).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(small).save(tmp_path / "8.tif", exif=exif)
    tags = [(274, "H", 1, orientation, False)]
    deeper = small.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "16.tif", deeper, photometric="rgb", extratags=tags)
    expected = read_image(tmp_path / "8.tif")
    assert torch.allclose(read_image(tmp_path / "16.tif"), expected, atol=1e-6)
    assert image_size(tmp_path / "16.tif") == tuple(expected.shape[1:])


def test_grey_and_alpha_are_recognised(tmp_path: Path):
    for mode, grey, alpha in (
        ("L", True, False),
        ("LA", True, True),
        ("1", True, False),
        ("RGB", False, False),
        ("RGBA", False, True),
        ("P", False, False),
    ):
        color = (200, 90, 30, 128) if alpha else (200, 90, 30)
        Image.new("RGBA" if alpha else "RGB", (5, 4), color).convert(mode).save(tmp_path / "a.png")
        picture = load_picture(tmp_path / "a.png")
        assert (picture.is_grey, picture.alpha is not None, picture.bits) == (grey, alpha, 8), mode
        assert picture.color.shape == (3, 4, 5)


def test_transparent_colour_of_a_palette(tmp_path: Path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "a.png", transparency=1)
    picture = load_picture(tmp_path / "a.png")
    assert picture.alpha is not None and picture.alpha[0, 0, 0] == 0 and picture.alpha.sum() == 15
    assert (picture.color[1] == 0).all()  # the hidden green is replaced by the red around


def test_hidden_colours_do_not_matter():
    """Black or white under alpha 0: the same, and the visible colours are kept."""
    rng = torch.Generator().manual_seed(0)
    alpha = (torch.rand(1, 13, 18, generator=rng) - 0.4).clamp(min=0)
    color = torch.rand(3, 13, 18, generator=rng)
    results = [fill_transparent(torch.where(alpha > 0, color, hidden), alpha) for hidden in (0, 1)]
    assert torch.equal(*results)
    visible = (alpha > 0).expand(3, -1, -1)
    assert torch.equal(results[0][visible], color[visible])
    flat = fill_transparent(torch.where(alpha > 0, torch.tensor(0.25), torch.tensor(0.0)), alpha)
    assert torch.allclose(flat, torch.tensor(0.25), atol=1e-5)


def test_nothing_visible_or_nothing_hidden():
    color = torch.rand(3, 5, 7)
    assert torch.equal(fill_transparent(color, torch.ones(1, 5, 7)), color)
    assert (fill_transparent(color, torch.zeros(1, 5, 7)) == 0).all()


def test_profile_is_converted_and_given_back(tmp_path: Path):
    """In: to sRGB. Out: to the profile again; every 8-bit value within 1 of itself."""
    pixels = np.random.default_rng(0).integers(60, 200, (6, 8, 3), dtype=np.uint8)
    write_pixels(tmp_path / "a.png", pixels, icc=rgb_profile(2.2))
    picture = load_picture(tmp_path / "a.png")
    plain = read_image(tmp_path / "a.png")
    assert picture.profile is not None and (picture.color - plain).abs().max() > 0.02
    canvas = np.rint(picture.color.permute(1, 2, 0).numpy() * 65535).astype(np.uint16)
    back = to_profile(canvas, picture.profile, np.uint8).astype(int)
    gamut = ((picture.color > 0) & (picture.color < 1)).all(0).numpy()
    assert gamut.sum() > 20 and np.abs(back - pixels)[gamut].max() <= 1


@pytest.mark.parametrize(
    "mode, icc, kept",
    [
        ("RGB", srgb_profile(), True),
        ("RGB", grey_profile(2.2), False),
        ("RGB", b"damaged", False),
        ("L", grey_profile(2.2), True),
        ("L", rgb_profile(2.2), False),
    ],
)
def test_which_profiles_are_kept(tmp_path: Path, mode: str, icc: bytes, kept: bool):
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif", icc_profile=icc)
    assert load_picture(tmp_path / "a.tif").icc == (icc if kept else None)


def test_cmyk_becomes_srgb(tmp_path: Path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    picture = load_picture(tmp_path / "a.jpg")
    assert picture.mode == "CMYK" and picture.icc == srgb_profile()
    assert (picture.color[0] > 0.9).all() and (picture.color[1:] < 0.1).all()
