"""Maps of what differs in the features of two pictures: numbers by hand, places, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gdpo_sr.metrics import create_metric, make_protocol
from gdpo_sr.metrics.feature_maps import FEATURE_METRICS, FeatureMap, distance_map, texture_map
from gdpo_sr.metrics.features import CHANNELS, photo_features
from gdpo_sr.metrics.protocols import metric_facts
from gdpo_sr.types import MetricError


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """Waves of many lengths, (1, 3, 64, 80) in [0, 1]."""
    rng = torch.Generator().manual_seed(0)
    sizes = [(64, 80), (16, 20), (4, 5)]
    layers = [torch.rand(1, 3, *size, generator=rng) for size in sizes]
    return sum(F.interpolate(x, (64, 80), mode="bicubic") for x in layers).div(3).clamp(0, 1)


def blurred(picture: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(picture, 3, 1, 1, count_include_pad=False)


def checkers(size: int = 9) -> torch.Tensor:
    """+-1 in turn, (1, 1, 1, size, size)."""
    i = torch.arange(size)
    return ((i[:, None] + i) % 2 * 2 - 1).float()[None, None, None]


def test_texture_of_twice_the_contrast_by_hand():
    """13 and 12 of the 25 places are +1 and -1, so s^2 = 1 - 1 / 625 = 0.9984; with twice the
    contrast (2 s - s)^2 / (4 s^2 + s^2 + 0.001 var), and var = 1 - 1 / 81^2.
    """
    centre = texture_map(2 * checkers(), checkers())[0, 0, 4, 4]
    assert float(centre) == pytest.approx(0.9984 / (5 * 0.9984 + 0.001 * (1 - 81**-2)), rel=1e-4)


def test_texture_that_is_gone_counts_fully_and_flat_parts_not():
    gone = texture_map(torch.zeros_like(checkers()), checkers())[0, 0, 4, 4]
    assert float(gone) == pytest.approx(0.9984 / (0.9984 + 0.001), rel=3e-3)
    assert texture_map(torch.ones(1, 1, 2, 6, 6), torch.zeros(1, 1, 2, 6, 6)).max() < 1e-6


def test_distance_of_features_by_hand():
    """Vectors of length 1 at a right angle: 2; brightness counts not."""
    a, b = torch.zeros(1, 1, 2, 3, 3), torch.zeros(1, 1, 2, 3, 3)
    a[:, :, 0], b[:, :, 1] = 5.0, 3.0
    torch.testing.assert_close(distance_map(a, b), torch.full((1, 1, 3, 3), 2.0))
    assert distance_map(a, 2 * a).abs().max() < 1e-6


def test_layers_of_the_network(photo: torch.Tensor):
    """Strides 2, 2, 4, 8; the stem ends in a ReLU6, the blocks in sums of any sign."""
    layers = photo_features()(photo * 2 - 1)
    assert [layer.shape[1] for layer in layers] == list(CHANNELS)
    assert [layer.shape[-1] for layer in layers] == [40, 40, 20, 10]
    assert layers[0].min() == 0 and layers[0].max() <= 6
    assert all(layer.min() < -1 and layer.max() > 1 for layer in layers[1:])


@pytest.mark.parametrize("name", FEATURE_METRICS)
def test_worse_pictures_are_further_away(name: str, photo: torch.Tensor):
    once, twice = blurred(photo), blurred(blurred(photo))
    maps = FeatureMap(name).maps(torch.stack([photo, once, twice], 1), photo)
    same, near, far = maps.mean((-2, -1))[0].tolist()
    assert maps.shape == (1, 3, 32, 40) and same == 0 and 0.01 < near < far


@pytest.mark.parametrize("name", FEATURE_METRICS)
def test_each_candidate_has_its_own_picture(name: str, photo: torch.Tensor):
    """Sides that are odd, and groups beside others."""
    hr = torch.cat([photo, photo.flip(-1)])[..., :33, :51]
    candidates = torch.stack([blurred(hr), hr], 1)
    found = FeatureMap(name).maps(candidates, hr)
    alone = FeatureMap(name).maps(candidates[1:], hr[1:])
    assert found.shape == (2, 2, 17, 26) and found[:, 1].abs().max() < 1e-6
    torch.testing.assert_close(found[1:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FEATURE_METRICS)
def test_a_map_says_where(name: str, photo: torch.Tensor):
    """What changes in one corner changes nothing far from it."""
    changed = photo.clone()
    changed[..., :8, :8] = blurred(photo)[..., :8, :8]
    found = FeatureMap(name).maps(changed[:, None], photo)[0, 0]
    assert found[:4, :4].mean() > 0.01 and found[:, 32:].abs().max() < 1e-5


@pytest.mark.parametrize("name", FEATURE_METRICS)
def test_its_gradient_makes_a_picture_better(name: str, photo: torch.Tensor):
    """Finite where nothing differs, too."""
    measure, picture = FeatureMap(name), blurred(photo).requires_grad_()
    before = measure(picture, photo).sum()
    [gradient] = torch.autograd.grad(before, picture)
    better = picture.detach() - 0.02 * gradient / gradient.abs().max()
    assert measure(better, photo) < before
    same = photo.clone().requires_grad_()
    [gradient] = torch.autograd.grad(measure(same, photo).sum(), same)
    assert gradient.isfinite().all() and gradient.abs().max() < 1e-3


@pytest.mark.parametrize("name", FEATURE_METRICS)
def test_they_are_metrics(name: str, photo: torch.Tensor):
    metric = create_metric(name)
    score = metric(blurred(photo), photo)
    assert (metric.name, metric.lower_better, metric.full_reference) == (name, True, True)
    torch.testing.assert_close(score, FeatureMap(name)(blurred(photo), photo))
    assert metric_facts(name) == (True, True)
    assert "EfficientNet" in str(make_protocol(None, [name], 0, True).record()["options"][name])


def test_mistakes_are_named():
    with pytest.raises(MetricError, match="'texture_energy' takes no options, got .*crop_border"):
        create_metric("texture_energy", crop_border=4)
    with pytest.raises(MetricError, match="did you mean texture_energy"):
        create_metric("texture_enrgy")
    with pytest.raises(MetricError, match="no metric 'psnr' of features: texture_energy"):
        FeatureMap("psnr")
