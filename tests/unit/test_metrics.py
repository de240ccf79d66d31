"""Metrics: published scores, independence within a batch, and what bad names and images get."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from pathlib import Path

import pytest
import torch

from gdpo_sr.metrics import Metric, create_metric
from gdpo_sr.metrics.niqe_parameters import niqe_parameters
from gdpo_sr.types import MetricError
from gdpo_sr.utils.image_io import read_image

TOLERANCE = {"psnr_y": ("PSNR", 1e-4), "ssim_y": ("SSIM", 1e-5), "niqe": ("NIQE", 0.05)}


def noisy_pair(count: int, size: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth pictures and their noisy copies, noisier from one to the next, (count, 3, size, size)
    each.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 10, 10, generator=generator)
    clean = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    strength = torch.linspace(0.02, 0.2, count).view(count, 1, 1, 1)
    noise = torch.randn(clean.shape, generator=generator)
    return (clean + strength * noise).clamp(0, 1), clean


def check_against_log(shared_dir: Path, dataset: str, metric: str, every: int) -> None:
    """Scores of OSEDiff's published outputs against the log that its authors published."""
    reference = json.loads((shared_dir / "bench" / "reference.json").read_text())
    folder = shared_dir / "bench" / dataset
    logged, tolerance = TOLERANCE[metric]
    score = create_metric(metric)
    for path in sorted((folder / "osediff").glob("*.png"))[::every]:
        image, target = (read_image(p)[None] for p in (path, folder / "HR" / path.name))
        expected = reference["sets"][dataset]["per_image"][path.name]["authors_log"][logged]
        assert float(score(image, target)) == pytest.approx(expected, abs=tolerance), path.name


@pytest.mark.parametrize("metric", list(TOLERANCE))
@pytest.mark.parametrize("dataset", ["realsr", "drealsr"])
def test_published_scores_of_one_image(shared_dir: Path, dataset: str, metric: str):
    check_against_log(shared_dir, dataset, metric, every=12)


@pytest.mark.slow
@pytest.mark.parametrize("metric", list(TOLERANCE))
@pytest.mark.parametrize("dataset", ["realsr", "drealsr"])
def test_published_scores(shared_dir: Path, dataset: str, metric: str):
    check_against_log(shared_dir, dataset, metric, every=1)


def test_psnr_of_a_known_error():
    """Grey moved by 0.1: Y of YCbCr spans 219 of 255 levels, so the error is 0.1 * 219 / 255."""
    grey = torch.full((1, 3, 32, 32), 0.5)
    expected = -20 * math.log10(0.1 * 219 / 255)
    assert float(create_metric("psnr_y")(grey + 0.1, grey)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["psnr_y", "ssim_y", "niqe", "piqe", "gmsd", "vif"])
def test_scores_do_not_depend_on_the_batch(name: str):
    metric = create_metric(name)
    images, references = noisy_pair(3)
    together = metric(images, references)
    alone = torch.cat([metric(images[i : i + 1], references[i : i + 1]) for i in range(3)])
    assert together.shape == (3,) and together.dtype == torch.float32
    torch.testing.assert_close(together, alone, rtol=0, atol=0, equal_nan=True)
    assert not together.requires_grad


@pytest.mark.parametrize(
    "name, lower, reference",
    [
        ("psnr_y", False, True),
        ("ssim_y", False, True),
        ("niqe", True, False),
        ("piqe", True, False),
    ],
)
def test_properties(name: str, lower: bool, reference: bool):
    metric = create_metric(name)
    assert (metric.name, metric.lower_better, metric.full_reference) == (name, lower, reference)


@pytest.mark.parametrize("name", ["psnr_y", "niqe", "piqe"])
def test_one_bad_image_is_nan_alone(name: str):
    """An image of NaN makes pyiqa refuse the whole batch; the others keep their scores."""
    metric = create_metric(name)
    images, references = noisy_pair(3)
    expected = metric(images, references)
    images[1] = torch.nan
    scores = metric(images, references)
    assert scores[1].isnan() and torch.equal(scores[[0, 2]], expected[[0, 2]])
    assert metric.failures == 1


def test_image_too_small_for_niqe_is_nan():
    metric = create_metric("niqe")
    assert metric(noisy_pair(2, size=40)[0]).isnan().all() and metric.failures == 2


def test_infinity_is_nan():
    metric = Metric("made", lambda x: torch.full((len(x),), torch.inf), False, False)
    assert metric(torch.rand(2, 3, 8, 8)).isnan().all()


@pytest.mark.parametrize(
    "images, reason",
    [
        (torch.rand(3, 8, 8), "shapes"),
        (torch.rand(1, 1, 8, 8), "shapes"),
        (torch.zeros(1, 3, 8, 8) - 1, "values"),
    ],
)
def test_wrong_input_is_named(images: torch.Tensor, reason: str):
    with pytest.raises(MetricError, match=f"'piqe' needs .*{reason}"):
        create_metric("piqe")(images)


def test_reference_is_needed_and_must_fit():
    metric = create_metric("psnr_y")
    with pytest.raises(MetricError, match="reference"):
        metric(torch.rand(1, 3, 8, 8))
    with pytest.raises(MetricError, match=r"\(1, 3, 8, 8\) and \(1, 3, 8, 9\)"):
        metric(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9))


def test_options_reach_pyiqa():
    images, references = noisy_pair(1, size=64)
    cropped = create_metric("psnr_y", crop_border=8)(images, references)
    inner = create_metric("psnr_y")(images[..., 8:-8, 8:-8], references[..., 8:-8, 8:-8])
    assert torch.equal(cropped, inner)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("musik", "did you mean musiq"),
        ("psnr_yy", "psnr_y"),
        ("zzzzzzzz", "pyiqa.list_models"),
        ("fid", "sets"),
    ],
)
def test_bad_name(name: str, reason: str):
    with pytest.raises(MetricError, match=reason):
        create_metric(name)


def test_bad_option():
    with pytest.raises(MetricError, match="'piqe' cannot be built on cpu with .*no_such_option"):
        create_metric("piqe", no_such_option=1)


@pytest.mark.parametrize("name", ["musiq", "maniqa"])
def test_weights_that_cannot_be_downloaded(name: str, monkeypatch, tmp_path: Path):
    """No host is found, the caches are empty: one clear error, soon, and nothing stays changed."""
    from huggingface_hub import constants

    def no_host(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_host)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path))
    environment, offline = dict(os.environ), constants.HF_HUB_OFFLINE
    start = time.monotonic()
    with pytest.raises(MetricError, match=f"'{name}': its weights cannot be downloaded.*psnr_y"):
        create_metric(name)
    assert time.monotonic() - start < 20
    assert (dict(os.environ), constants.HF_HUB_OFFLINE) == (environment, offline)
    assert socket.getdefaulttimeout() is None


def test_niqe_parameters_are_those_of_basicsr():
    import numpy as np
    from scipy.io import loadmat

    from gdpo_sr.utils import basicsr

    recorded = np.load(basicsr.package_folder() / "metrics" / "niqe_pris_params.npz")
    with niqe_parameters() as path:
        written = loadmat(path)
    assert np.array_equal(written["mu_prisparam"].ravel(), recorded["mu_pris_param"].ravel())
    assert np.array_equal(written["cov_prisparam"], recorded["cov_pris_param"])
    assert not path.exists()
