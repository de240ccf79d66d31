"""The field is a function of seed and position: any window of it is the same."""

from __future__ import annotations

import torch

from gdpo_sr.pipelines.noise_field import BLOCK, NoiseField, draw_seed


def test_windows_agree():
    field = NoiseField(7, 4)
    whole = field.window(0, 3 * BLOCK, 0, 2 * BLOCK)
    assert whole.shape == (4, 3 * BLOCK, 2 * BLOCK)
    for top, bottom, left, right in ((0, 1, 0, 1), (5, 70, 30, 34), (BLOCK, 2 * BLOCK, 1, 60)):
        part = NoiseField(7, 4).window(top, bottom, left, right)
        assert torch.equal(part, whole[:, top:bottom, left:right])


def test_seeds_and_blocks_differ():
    first = NoiseField(0, 4).window(0, 2 * BLOCK, 0, 2 * BLOCK)
    assert not torch.equal(first, NoiseField(1, 4).window(0, 2 * BLOCK, 0, 2 * BLOCK))
    corners = [first[:, y : y + BLOCK, x : x + BLOCK] for y in (0, BLOCK) for x in (0, BLOCK)]
    for i, block in enumerate(corners):
        for other in corners[:i]:
            similarity = (block * other).mean() / (block.std() * other.std())
            assert abs(similarity) < 0.06  # independent: standard error 1 / sqrt(4096) = 0.016


def test_it_is_standard_normal():
    noise = NoiseField(3, 12).window(0, 128, 0, 128)
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert 0.0015 < (noise.abs() > 3).float().mean() < 0.004  # normal: 0.0027


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    NoiseField(0, 4).window(0, 8, 0, 8)
    seeds = [draw_seed(torch.Generator().manual_seed(5)) for _ in range(2)]
    assert seeds[0] == seeds[1] and torch.equal(torch.get_rng_state(), before)
