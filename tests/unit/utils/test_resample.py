"""Bicubic windows: torch's result where torch has one, any window, any size, nothing stretched."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gdpo_sr.types import OptionError
from gdpo_sr.utils.resample import Frame, ResizedView, frame_for


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (37, 53)])
def test_integer_scales_are_torch_s(size: tuple[int, int], scale: int):
    image = picture(*size)
    expected = F.interpolate(image[None], scale_factor=scale, mode="bicubic")[0].clamp(0, 1)
    actual = ResizedView(image, frame_for(*size, scale)).whole()
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [4, 2.5, 0.3])
def test_a_window_is_a_part_of_the_whole(scale: float):
    view = ResizedView(picture(40, 31), frame_for(40, 31, scale))
    whole = view.whole()
    height, width = whole.shape[1:]
    assert torch.equal(view.window(3, height - 1, 2, width), whole[:, 3:-1, 2:])


def test_outside_the_frame_the_border_is_repeated():
    view = ResizedView(picture(5, 6), frame_for(5, 6, 4))
    padded = F.pad(view.whole()[None], (0, 4, 0, 8), mode="replicate")[0]
    assert torch.equal(view.window(0, 28, 0, 28), padded)


def test_sizes():
    assert frame_for(30, 40, 2.5) == Frame(75, 100, 2.5)
    assert frame_for(1, 1, 0.1) == Frame(1, 1, 0.1)
    assert frame_for(30, 40, long_side=100) == Frame(75, 100, 2.5)
    assert frame_for(40, 30, long_side=7) == Frame(7, 5, 7 / 40)
    # as wide as asked, too high by half: cropped above and below
    assert frame_for(30, 40, size=(60, 160)) == Frame(60, 160, 4)
    for bad in ({"size": (0, 8)}, {"long_side": 0}):
        with pytest.raises(OptionError, match="1 pixel or more"):
            frame_for(8, 8, **bad)


def test_a_frame_of_another_shape_is_the_middle():
    image = picture(30, 40)
    whole = ResizedView(image, frame_for(30, 40, 4)).whole()
    part = ResizedView(image, frame_for(30, 40, size=(60, 160))).whole()
    torch.testing.assert_close(part, whole[:, 30:90], atol=1e-5, rtol=0)


def test_circles_stay_circles():
    """Odd sizes: a rotated source gives the rotated result, one scale in both directions."""
    image = picture(17, 23)
    frame = frame_for(17, 23, 1.37)
    turned = ResizedView(image.rot90(1, (1, 2)), Frame(frame.width, frame.height, frame.scale))
    expected = ResizedView(image, frame).whole().rot90(1, (1, 2))
    torch.testing.assert_close(turned.whole(), expected, atol=1e-5, rtol=0)


def test_fine_stripes_do_not_alias():
    """Stripes of one pixel, reduced to a quarter, are grey; without widening they are not."""
    stripes = torch.zeros(3, 64, 64)
    stripes[:, :, ::2] = 1
    small = ResizedView(stripes, frame_for(64, 64, 0.25)).whole()[:, :, 2:-2]
    assert (small - 0.5).abs().max() < 0.05
