"""Changes of pictures that must not pay, and the picture that a reward likes best."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gdpo_sr.group.hacks import HACKS, blurred, hack_rows, maximised
from gdpo_sr.group.sample import Group
from gdpo_sr.types import OptionError

LEVEL, PERIOD = 5 / 255, 4


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def grey(height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.full((1, 3, height, width), 0.5)


def test_blur_keeps_the_mean_and_flat_pictures():
    """A point spreads to a Gaussian of deviation 0.8: sum 1, second moment 0.64 along each axis."""
    point = torch.zeros(1, 3, 21, 21)
    point[..., 10, 10] = 1
    found = blurred(point, 0.8)[0, 0]
    offsets = torch.arange(21.0) - 10
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert float((found.sum(0) * offsets.square()).sum()) == pytest.approx(0.64, abs=0.02)
    assert (found.sum(0) > 0).sum() == 7  # three deviations to each side, rounded up
    torch.testing.assert_close(blurred(grey(), 1.5), grey())


def test_what_each_change_does_to_grey():
    """Noise of 5 levels, lines of 5 levels every 4 pixels, red up and blue down by 5; grey has
    nothing to blur or to sharpen.
    """
    found = {name: change(grey(), rng()) for name, change in HACKS.items()}
    assert float((found["noise"] - 0.5).std()) == pytest.approx(LEVEL, rel=0.1)
    lines = found["grid"][0, 0, 1] - 0.5
    expected = [LEVEL if i % PERIOD == 0 else 0.0 for i in range(24)]
    assert lines.tolist() == pytest.approx(expected, abs=1e-6)
    cast = (found["colour_cast"] - 0.5)[0, :, 0, 0]
    assert cast.tolist() == pytest.approx([LEVEL, 0, -LEVEL], abs=1e-6)
    for name in ("blur", "sharpening"):
        torch.testing.assert_close(found[name], grey())


def test_sharpening_is_the_opposite_of_blur():
    edge = grey()
    edge[..., 12:] = 0.6
    sharp, soft = (HACKS[name](edge, rng())[0, 0, 8] for name in ("sharpening", "blur"))
    assert sharp.max() > 0.61 and sharp.min() < 0.49
    assert soft[12] - soft[11] < 0.06 and 0.5 <= soft.min() and soft.max() <= 0.6 + 1e-6


def test_blur_and_sharpening_of_a_point():
    """Second moments: a Gaussian of deviation 0.8, and twice a point less one of 1.5."""
    point = torch.zeros(1, 3, 21, 21)
    point[..., 10, 10] = 1
    offsets = torch.arange(21.0) - 10
    for name, expected in (("blur", 0.8**2), ("sharpening", -(1.5**2))):
        rows = HACKS[name](point, rng())[0, 0].sum(0)
        assert float((rows * offsets.square()).sum()) == pytest.approx(expected, rel=0.05)


class Brightness:
    """A reward: the mean of the red channel, or minus its spread."""

    weight = 1.0
    metric = SimpleNamespace(lower_better=False)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        red = candidates[:, :, 0].flatten(2)
        return red.mean(-1) if self.kind == "fidelity" else -red.std(-1)


def group_of(images: torch.Tensor) -> Group:
    nothing = torch.empty(0)
    return Group(nothing, [], images, nothing, nothing, nothing)


def test_gains_are_in_spreads_of_the_group():
    """Candidates of brightness 0.4, 0.5, 0.6 and one spread: their std is 0.1, and a cast of 5
    levels gains 5 / 255 / 0.1. The smoothness ties in its group, so noise cannot be counted in
    its spread and the total is the brightness alone, by its share of 0.7.
    """
    images = torch.stack([grey()[0] + shift for shift in (-0.1, 0.0, 0.1)])[None]
    rewards = {"bright": Brightness("fidelity"), "smooth": Brightness("perception")}
    rows = hack_rows(rewards, group_of(images), grey(), torch.tensor([0.3]), rng())
    gains = {row.hack: row.gains for row in rows}
    assert list(gains) == list(HACKS)
    assert float(gains["colour_cast"]["bright"]) == pytest.approx(LEVEL / 0.1, rel=1e-3)
    assert float(gains["colour_cast"]["total"]) == pytest.approx(0.7 * LEVEL / 0.1, rel=1e-3)
    assert float(gains["noise"]["smooth"]) < 0 < float(gains["grid"]["bright"])
    assert float(gains["blur"]["total"]) == pytest.approx(0, abs=1e-3)


def test_changed_pictures_stay_pictures():
    """White and nearly white candidates: a red cast of 5 levels gains nothing, or one level."""
    images = torch.stack([torch.full((3, 16, 24), v / 255) for v in (255.0, 254.0)])[None]
    rewards = {"bright": Brightness("fidelity")}
    rows = hack_rows(rewards, group_of(images), grey(), torch.tensor([0.0]), rng())
    [gain] = [row.gains["bright"] for row in rows if row.hack == "colour_cast"]
    assert float(gain) == pytest.approx(0.5 / 0.5**0.5, rel=1e-3)  # of a spread of 0.5**0.5 levels


def test_the_favourite_of_a_known_reward():
    """-(distance from white of the first row): 60 steps get it there, other rows stay."""
    start = grey()
    found = maximised(lambda x: -(x[..., 0, :] - 1).square().mean((1, 2)), start, steps=60)
    assert found[..., 0, :].min() > 0.95 and torch.equal(found[..., 1:, :], start[..., 1:, :])
    assert not found.requires_grad and torch.equal(start, grey())


def test_a_step_moves_each_picture_by_one_level():
    """However steep the score of a picture is; the second of two steps is half as long. Nothing
    leaves the range.
    """
    start = torch.cat([grey(), grey()])
    weights = torch.tensor([1.0, 100.0])
    found = maximised(lambda x: weights * x.mean((1, 2, 3)), start, 2)
    torch.testing.assert_close(found, start + 1.5 / 255)
    assert maximised(lambda x: x.mean((1, 2, 3)), torch.full_like(start, 0.999), 3).max() == 1


@pytest.mark.parametrize("factor", [0.0, float("nan")])
def test_what_cannot_be_maximised(factor: float):
    with pytest.raises(OptionError, match="its gradient is 0 or not finite"):
        maximised(lambda x: factor * x.mean((1, 2, 3)), grey(), 2)
