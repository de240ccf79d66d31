"""Colour fixes against recorded results of the released code, and their identities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gdpo_sr.types import ImageError, OptionError
from gdpo_sr.utils.color_fix import COLOR_FIXES, adain_color_fix, apply_color_fix, wavelet_color_fix


@pytest.mark.parametrize("pair", [0, 1, 2])
@pytest.mark.parametrize("name", ["adain", "wavelet"])
def test_matches_the_recording(golden, pair: int, name: str):
    """Floats to 1e-5; 8-bit results, which the released code truncates, to one level."""
    recorded = np.load(golden("color_fix.npz"))

    def picture(kind: str) -> torch.Tensor:
        pixels = torch.from_numpy(recorded[f"p{pair}__{kind}"])
        return pixels.permute(2, 0, 1)[None].float() / 255

    result = apply_color_fix(name, picture("target"), picture("source"))[0]
    levels = (result.clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.abs(result.numpy() - recorded[f"p{pair}__{name}_float"]).max() < 1e-5
    assert np.abs(levels.astype(int) - recorded[f"p{pair}__{name}"]).max() <= 1


@pytest.mark.parametrize("name", list(COLOR_FIXES))
def test_a_picture_fixed_by_itself_stays(name: str):
    image = torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(apply_color_fix(name, image, image), image, atol=1e-6)


def test_wavelet_removes_a_constant_shift():
    """A constant lies in the low frequencies alone, so the source's constant takes its place."""
    image = torch.rand(1, 3, 33, 47, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(wavelet_color_fix(image + 0.2, image), image, atol=1e-6)


def test_adain_takes_over_mean_and_deviation():
    generator = torch.Generator().manual_seed(0)
    target, source = torch.rand(2, 1, 3, 64, 64, generator=generator)
    source = source * 0.5 + 0.1
    result = adain_color_fix(target, source)
    assert torch.allclose(result.mean((2, 3)), source.mean((2, 3)), atol=1e-5)
    assert torch.allclose(result.std((2, 3)), source.std((2, 3)), atol=1e-4)


def test_unknown_name_lists_the_choices():
    image = torch.zeros(1, 3, 4, 4)
    with pytest.raises(OptionError, match="'wavlet'.*wavelet, adain, none"):
        apply_color_fix("wavlet", image, image)


@pytest.mark.parametrize("name", ["wavelet"])
def test_sizes_must_agree(name: str):
    with pytest.raises(ImageError, match="enlarge the source"):
        apply_color_fix(name, torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 2, 2))
