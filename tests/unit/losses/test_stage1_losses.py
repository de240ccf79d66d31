"""Losses of stage 1: pixel error, metrics as losses, and the energy score."""

from __future__ import annotations

import itertools

import pytest
import torch

from gdpo_sr.losses.energy_score import (
    energy_score,
    energy_score_loss,
    gradients,
    patch_norm,
    spread_weight,
)
from gdpo_sr.losses.perceptual import PerceptualLoss
from gdpo_sr.losses.reconstruction import reconstruction_loss
from gdpo_sr.metrics import create_metric
from gdpo_sr.types import MetricError

SIDE = 96


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth HR pictures and noisy copies (2, 3, 96, 96) in [0, 1]."""
    coarse = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    hr = torch.nn.functional.interpolate(coarse, size=SIDE, mode="bilinear") * 0.8 + 0.1
    return (hr + 0.05 * draw(*hr.shape)).clamp(0, 1), hr


def test_reconstruction_by_hand():
    """Errors 1 and 3: mean square 5, mean 2."""
    images = torch.zeros(2, 3, 1, 1)
    hr = torch.tensor([1.0, -3.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert float(reconstruction_loss(images, hr).loss) == 5
    assert float(reconstruction_loss(images, hr, "l1").loss) == 2


# Metrics as losses -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nlpd", "gmsd", "ssim", "psnr_y"])
def test_a_step_down_the_gradient_improves_the_metric(name: str):
    """Whether lower or higher is better; the loss is the metric's own value, with its sign."""
    images, hr = pictures()
    loss, metric = PerceptualLoss(name, size=SIDE), create_metric(name)
    moved = images.clone().requires_grad_()
    output = loss(moved, hr)
    output.loss.backward()
    step = moved.grad * (1e-2 / moved.grad.abs().max())
    before, after = (float(metric(x.clamp(0, 1), hr).mean()) for x in (images, images - step))
    assert float(output.logs["score"]) == pytest.approx(before, rel=1e-4)
    assert (after < before) if metric.lower_better else (after > before)
    assert float(output.loss.detach()) == float(output.logs["score"]) * (
        1 if metric.lower_better else -1
    )
    assert all(not p.requires_grad for p in loss.parameters())


def test_it_is_computed_in_float32_under_autocast():
    images, hr = pictures()
    loss = PerceptualLoss("ssim", size=SIDE)
    plain = loss(images, hr).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(images, hr).loss, plain)


@pytest.mark.parametrize(
    "name, size, message",
    [
        ("piqe", SIDE, "'piqe' cannot be a loss on pictures of 96 px .* choose a differentiable"),
        ("ms_ssim", 64, "'ms_ssim' cannot be a loss on pictures of 64 px .* a larger gt_size"),
        ("nlp", SIDE, "unknown metric 'nlp'; did you mean nlpd"),
    ],
)
def test_what_cannot_be_a_loss(name: str, size: int, message: str):
    with pytest.raises(MetricError, match=message) as caught:
        PerceptualLoss(name, size=size)
    assert "\n" not in str(caught.value)


class Own(torch.nn.Module):
    """A metric without a reference that gives `factor` times the brightness."""

    lower_better, metric_mode = True, "NR"

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.factor * images.mean((1, 2, 3))


@pytest.mark.parametrize("factor", [0.0, float("nan"), 1.0])
def test_a_gradient_of_0_or_of_no_number_is_refused(monkeypatch, factor: float):
    monkeypatch.setattr("gdpo_sr.losses.perceptual.differentiable_metric", lambda *_: Own(factor))
    if factor == 1:
        images, hr = pictures()
        assert PerceptualLoss("own", SIDE)(images, hr).loss == images.mean((1, 2, 3)).mean()
        return
    with pytest.raises(MetricError, match="its gradient is 0 or not finite"):
        PerceptualLoss("own", SIDE)


# Energy score ------------------------------------------------------------------------------------


def expected_score(truths: list[float], outputs: list[float], beta: float) -> float:
    """Score of independent draws from `outputs` against draws from `truths`, one pixel each."""
    draws = torch.tensor(list(itertools.product(outputs, outputs, truths)))
    first, second, truth = (column.view(-1, 1, 1, 1) for column in draws.unbind(1))
    return float(energy_score((first, second), truth, torch.full_like(truth, beta)))


def test_the_true_distribution_has_the_lowest_score():
    """Truth -1 or 1; outputs -s or s. E|x - y| = max(s, 1), E|x - x'| = s: lowest at s = 1."""
    scores = {s: expected_score([-1, 1], [-s, s], beta=1) for s in (0.0, 0.5, 0.9, 1.0, 1.1, 2.0)}
    assert min(scores, key=scores.get) == 1.0
    assert scores[1.0] == pytest.approx(0.5, abs=1e-3)
    assert scores[0.5] == pytest.approx(1 - 0.25, abs=1e-3)


def test_shares_are_learned_too():
    """Truth is 1 in two of three draws: so must the outputs be."""
    truths = [1.0, 1.0, -1.0]
    families = {0: [-1.0] * 3, 1: [1.0, -1.0, -1.0], 2: truths, 3: [1.0] * 3}
    scores = {share: expected_score(truths, family, 1) for share, family in families.items()}
    assert min(scores, key=scores.get) == 2


def test_without_the_spread_term_it_is_the_error_and_one_answer_is_best():
    truths = [1.0, 1.0, -1.0]
    assert expected_score(truths, [1.0], 0) < expected_score(truths, truths, 0)
    first, second, truth = draw(2, 3, 8, 8), draw(2, 3, 8, 8, seed=1), draw(2, 3, 8, 8, seed=2)
    score = energy_score((first, second), truth, torch.zeros(2, 1, 8, 8), sizes=(1, 4))
    errors = [patch_norm(x - truth, size).mean() for x in (first, second) for size in (1, 4)]
    torch.testing.assert_close(score, torch.stack(errors).mean())


def test_patch_norm_is_the_root_mean_square():
    """Constant difference 3: 3 at every size; a 4x4 patch at stride 2 gives 3 x 3 of an 8 x 8."""
    difference = torch.full((1, 3, 8, 8), 3.0)
    assert patch_norm(difference, 4).shape == (1, 1, 3, 3)
    torch.testing.assert_close(patch_norm(difference, 4), torch.full((1, 1, 3, 3), 3.0))


def test_spread_counts_on_texture_only():
    flat, textured = torch.zeros(1, 3, 32, 32), 0.5 * draw(1, 3, 32, 32)
    assert spread_weight(flat, 0.75).abs().max() == 0
    torch.testing.assert_close(spread_weight(textured, 0.75), torch.full((1, 1, 32, 32), 0.75))


def test_gradients_by_hand():
    image = torch.arange(4.0).view(1, 1, 2, 2)  # rows 0 1 / 2 3
    torch.testing.assert_close(gradients(image), torch.tensor([1.0, 2.0]).view(1, 2, 1, 1))


def test_equal_pictures_have_a_finite_gradient_and_nearly_no_loss():
    hr, latents = draw(1, 3, 32, 32).clamp(-1, 1), draw(1, 12, 8, 8)
    images = hr.clone().requires_grad_()
    output = energy_score_loss((images, images), hr, (latents, latents), latents, beta=1)
    output.loss.backward()
    assert images.grad.isfinite().all() and float(output.loss.detach()) < 5e-3
    assert set(output.logs) == {"pixels", "gradients", "latents"}


def test_parts_add_up_and_beta_rewards_a_difference():
    hr, latents = draw(2, 3, 32, 32), draw(2, 12, 8, 8, seed=1)
    images = (hr + draw(*hr.shape, seed=2), hr + draw(*hr.shape, seed=3))
    coded = (latents, latents)
    plain, spread = (energy_score_loss(images, hr, coded, latents, beta) for beta in (0.0, 1.0))
    parts = spread.logs["pixels"] + spread.logs["gradients"] + 0.03 * spread.logs["latents"]
    torch.testing.assert_close(spread.loss, parts)
    assert spread.loss < plain.loss


def plain_patches(values: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Patches of one picture (1, C, H, W) at half-patch strides."""
    step, (height, width) = max(size // 2, 1), values.shape[-2:]
    places = itertools.product(range(0, height - size + 1, step), range(0, width - size + 1, step))
    return [values[..., y : y + size, x : x + size] for y, x in places]


def plain_score(
    outputs: tuple[torch.Tensor, torch.Tensor],
    truth: torch.Tensor,
    beta: torch.Tensor,
    sizes: tuple,
) -> float:
    """Mean over sizes of the mean over patches, patch by patch."""
    found = []
    for size in sizes:
        first, second, between, weights = (
            plain_patches(x, size)
            for x in (outputs[0] - truth, outputs[1] - truth, outputs[0] - outputs[1], beta)
        )
        norms = [
            [float(x.square().mean() + 1e-6) ** 0.5 for x in differences]
            for differences in (first, second, between)
        ]
        rows = zip(*norms, map(torch.mean, weights), strict=True)
        found.append(sum((a + b - float(w) * c) / 2 for a, b, c, w in rows) / len(first))
    return sum(found) / len(found)


def plain_weight(truth: torch.Tensor, beta: float) -> torch.Tensor:
    """From the deviation of the grey values within 4 pixels; 10 of 255 levels are texture."""
    grey, (height, width) = truth[0].mean(0), truth.shape[-2:]
    weight = torch.empty(1, 1, height, width)
    for y, x in itertools.product(range(height), range(width)):
        near = grey[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5]
        weight[..., y, x] = beta * min(float(near.std(correction=0)) / (10 / 127.5), 1)
    return weight


def plain_gradients(x: torch.Tensor) -> torch.Tensor:
    across, down = x.diff(dim=-1)[..., :-1, :], x.diff(dim=-2)[..., :-1]
    return torch.cat([across, down], 1)


def test_the_parts_by_their_definition():
    """Pixels in patches of 1, 4 and 16, gradients of 2 and 8, latents of 1 and 4; the picture is
    smooth at one side and textured at the other.
    """
    hr = 0.15 * draw(1, 3, 20, 28) * torch.linspace(0, 1, 28)
    images = (hr + 0.2 * draw(*hr.shape, seed=1), hr + 0.3 * draw(*hr.shape, seed=2))
    latents = tuple(draw(1, 12, 5, 7, seed=seed) for seed in (3, 4, 5))
    logs = energy_score_loss(images, hr, latents[:2], latents[2], 0.75).logs
    weight = plain_weight(hr, 0.75)
    assert weight.min() < 0.1 and weight.max() == 0.75
    coarse = weight.unflatten(-1, (7, 4)).unflatten(-3, (5, 4)).mean((-3, -1))
    edges = tuple(plain_gradients(x) for x in images)
    expected = {
        "pixels": plain_score(images, hr, weight, (1, 4, 16)),
        "gradients": plain_score(edges, plain_gradients(hr), weight[..., :-1, :-1], (2, 8)),
        "latents": plain_score(latents[:2], latents[2], coarse, (1, 4)),
    }
    for name, value in expected.items():
        assert float(logs[name]) == pytest.approx(value, rel=1e-4), name
