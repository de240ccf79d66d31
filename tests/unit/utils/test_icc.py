"""Profiles of curves and a matrix, against Little CMS, and what cannot be read that way."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from gdpo_sr.utils.icc import CurveProfile, srgb_profile
from tests.icc_profiles import grey_profile, rgb_profile


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def as_float(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 255


def test_agrees_with_little_cms(pixels: np.ndarray):
    """A wide space with gamma 2.2; Little CMS works with 8 bits, so to 1.5 of its steps."""
    content = rgb_profile(gamma=2.2)
    source = ImageCms.ImageCmsProfile(io.BytesIO(content))
    image = Image.fromarray(pixels)
    expected = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))
    actual = CurveProfile(content).to_srgb(as_float(pixels))
    assert not CurveProfile(content).is_srgb
    assert np.abs(actual - as_float(np.asarray(expected))).max() < 1.5 / 255


@pytest.mark.parametrize("content", [rgb_profile(gamma=1.8), grey_profile(gamma=2.0)])
def test_there_and_back(content: bytes):
    """Colours inside sRGB return to 1e-4, a fortieth of an 8-bit step."""
    colors = np.random.default_rng(1).random((8, 9, 3), dtype=np.float32) * 0.9 + 0.05
    profile = CurveProfile(content)
    if profile.is_grey:
        colors[...] = colors[..., :1]
    back = profile.to_srgb(profile.from_srgb(colors))
    assert np.abs(back - colors).max() < 1e-4


def test_srgb_is_recognised(pixels: np.ndarray):
    assert CurveProfile(srgb_profile()).is_srgb
    assert not CurveProfile(grey_profile(gamma=1.0)).is_srgb


@pytest.mark.parametrize(
    "content",
    [b"", b"no profile" * 30, srgb_profile()[:140], rgb_profile(gamma=2.2)[:200]],
)
def test_damaged_profiles_are_refused(content: bytes):
    with pytest.raises(ValueError):
        CurveProfile(content)


def test_lab_has_no_curves():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    with pytest.raises(ValueError, match="curves"):
        CurveProfile(lab)
