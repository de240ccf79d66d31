"""Two passes give the numbers of pyiqa's whole windows, in less time."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gdpo_sr.metrics import create_metric
from gdpo_sr.metrics.pyiqa_build import build
from gdpo_sr.metrics.registry import resolve
from gdpo_sr.metrics.separable import product, two_passes

RNG = torch.Generator().manual_seed(0)


def picture(side: int = 192) -> torch.Tensor:
    coarse = torch.rand(1, 3, side // 8, side // 8, generator=RNG)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    return (smooth + 0.05 * torch.randn(smooth.shape, generator=RNG)).clamp(0, 1)


@pytest.mark.parametrize("name", ["ssim_y", "ssim", "ms_ssim", "piqe"])
def test_same_scores_as_pyiqa(name: str):
    theirs, options = resolve(name)
    inputs = [picture(), picture()]
    model = build(theirs, "cpu", options)
    inputs = inputs if model.metric_mode == "FR" else inputs[:1]
    ours = create_metric(name)(*inputs)
    assert float(ours) == pytest.approx(float(model(*inputs)), rel=1e-5)


def test_same_niqe_as_pyiqa(monkeypatch: pytest.MonkeyPatch):
    image = picture()
    ours = float(create_metric("niqe")(image))
    monkeypatch.setattr("gdpo_sr.metrics.registry.fast", lambda model: model)
    assert ours == pytest.approx(float(create_metric("niqe")(image)), rel=1e-5)


def test_two_passes_by_hand():
    """Weights (1, 2) down and (3, 5) across of [[1, 2], [4, 8]]: 3 + 10 + 2 (12 + 40) = 117."""
    window = torch.tensor([[3.0, 5.0], [6.0, 10.0]])
    column, row = product(window)
    image = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]])
    assert two_passes(image, column, row).item() == pytest.approx(117)
    assert product(torch.eye(2)) is None and product(torch.zeros(2, 2)) is None


def test_ssim_takes_less_than_a_quarter_of_the_multiplications(monkeypatch: pytest.MonkeyPatch):
    pair = picture(384), picture(384)

    def flops() -> int:
        metric, counter = create_metric("ssim_y"), FlopCounterMode(display=False)
        with counter:
            metric(*pair)
        return counter.get_total_flops()

    ours = flops()
    monkeypatch.setattr("gdpo_sr.metrics.registry.fast", lambda model: model)
    assert flops() > 4 * ours > 0
