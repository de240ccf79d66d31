"""Probes of pictures find what they are for, and alarms go off when they should."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gdpo_sr.trainer.alarms import Alarms, edge_density, grid_energy, high_frequency_energy
from gdpo_sr.trainer.report import Comparison, MetricComparison


def photo(seed: int = 0, size: int = 96) -> torch.Tensor:
    """(1, 3, H, W): smooth blobs and a little texture."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 12, 12, generator=rng)
    blobs = F.interpolate(coarse, size=(size, size), mode="bicubic")
    return (0.2 + 0.6 * blobs + 0.02 * torch.randn(blobs.shape, generator=rng)).clamp(0, 1)


def with_grid(image: torch.Tensor, period: int, depth: float) -> torch.Tensor:
    """Every cell of the grid a little brighter or darker: no mean pattern, but visible seams."""
    side = image.shape[-1] // period
    rng = torch.Generator().manual_seed(9)
    cells = depth * torch.randn(1, 1, side, side, generator=rng)
    return (image + F.interpolate(cells, scale_factor=period)).clamp(0, 1)


def test_the_grid_is_seen_at_its_own_period():
    image = photo()
    gridded = with_grid(image, 4, 0.05)
    assert float(grid_energy(gridded, 4)) > 3 * float(grid_energy(image, 4))
    assert float(grid_energy(gridded, 3)) < 1.5 * float(grid_energy(image, 3)) + 0.05
    assert float(grid_energy(torch.full((1, 3, 16, 16), 0.5), 4)) == 0


def test_blur_lowers_edges_and_high_frequencies():
    image = photo()
    sharp = (image + 2 * (image - F.avg_pool2d(image, 3, 1, 1))).clamp(0, 1)
    for probe in (high_frequency_energy, edge_density):
        assert float(probe(sharp)) > float(probe(image)) >= 0


def test_high_frequency_energy_of_waves():
    """A wave of amplitude a has power a^2 / 2; 2 pixels a period is above, 8 is below the limit."""
    x = torch.arange(64.0)
    wave = 0.5 + 0.1 * torch.cos(torch.pi * 2 * x / 3.2)
    low = 0.5 + 0.1 * torch.cos(torch.pi * 2 * x / 8)
    high_energy, low_energy = (
        float(high_frequency_energy(w.expand(1, 3, 64, 64))) for w in (wave, low)
    )
    assert high_energy == pytest.approx(0.005, rel=1e-3) and low_energy < 1e-9


def comparison(rewarded_gain: float, held_out_loss: float) -> Comparison:
    rows = [
        MetricComparison("psnr", False, True, [20.0, 22.0], [20.0 + rewarded_gain] * 2),
        MetricComparison("gmsd", True, False, [0.1, 0.1], [0.1 + held_out_loss] * 2),
        MetricComparison("ssim", False, False, [0.8, 0.8], [0.8 - held_out_loss] * 2),
    ]
    rows[0].policy = [b + rewarded_gain for b in rows[0].base]
    return Comparison(10, ["a", "b"], rows)


def pictures(gridded: bool = False) -> list[dict[str, torch.Tensor]]:
    found = []
    for seed in range(2):
        base = photo(seed)
        policy = with_grid(base, 4, 0.05) if gridded else base
        found.append({"base": base[0], "policy": policy[0]})
    return found


def alarms(share: float = 0.4) -> Alarms:
    return Alarms(metric_limit=0.03, probe_limit=0.3, share=share, period=4)


def test_nothing_changed_is_no_alarm():
    report = alarms().check(comparison(0.0, 0.0), pictures())
    assert not report.raised and not any(m.beyond for m in report.measures)
    names = [m.name for m in report.measures]
    assert names == ["gmsd", "ssim", "edge_density", "high_frequency", "latent_grid"]


def test_rewards_that_rise_while_others_fall_are_an_alarm():
    report = alarms().check(comparison(0.5, 0.05), pictures())
    assert report.raised and not report.best
    assert [m.name for m in report.measures if m.beyond] == ["gmsd", "ssim"]
    assert "gmsd 0.1 -> 0.15" in report.text()
    assert not alarms(share=0.5).check(comparison(0.5, 0.05), pictures()).raised


def test_without_a_rising_reward_it_is_no_hacking():
    assert not alarms().check(comparison(-0.5, 0.05), pictures()).raised


def test_a_grid_alone_is_an_alarm_if_it_is_enough():
    report = alarms(share=0.2).check(comparison(0.5, 0.0), pictures(gridded=True))
    assert report.raised
    assert "latent_grid" in [m.name for m in report.measures if m.beyond]


def test_the_best_is_the_best_without_alarm_and_survives_a_resume():
    first = alarms()
    assert first.check(comparison(0.2, 0.0), pictures()).best
    assert not first.check(comparison(0.1, 0.0), pictures()).best
    second = alarms()
    second.load_state_dict(first.state_dict())
    assert not second.check(comparison(0.15, 0.0), pictures()).best
    assert second.check(comparison(0.3, 0.0), pictures()).best
