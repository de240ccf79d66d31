"""Metrics: independence within a batch, missing weights, and what bad names and images get."""

from __future__ import annotations

import math
import os
import socket
import time
from pathlib import Path

import pytest
import torch

from gdpo_sr.metrics import (
    PROTOCOLS,
    Metric,
    MetricUnavailable,
    create_metric,
    create_set_metric,
    make_protocol,
)
from gdpo_sr.metrics.niqe_parameters import niqe_parameters
from gdpo_sr.types import MetricError


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


@pytest.fixture
def empty_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No weights, whatever this machine has."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def no_connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on every attempt to reach a host fails and is listed."""
    attempts: list[str] = []

    def no_host(host, *args, **kwargs):
        attempts.append(str(host))
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_host)
    return attempts


@pytest.mark.parametrize("name", ["musiq", "maniqa"])
def test_weights_that_cannot_be_downloaded(name: str, monkeypatch, empty_caches: Path):
    """No host is found, the caches are empty: one clear error, soon, and nothing stays changed."""
    from huggingface_hub import constants

    no_connections(monkeypatch)
    functions = [torch.hub.download_url_to_file, socket.getaddrinfo, socket.create_connection]
    environment, offline = dict(os.environ), constants.HF_HUB_OFFLINE
    start = time.monotonic()
    with pytest.raises(MetricUnavailable, match=f"'{name}': no weights.*connect once.*psnr_y"):
        create_metric(name)
    assert time.monotonic() - start < 60
    assert (dict(os.environ), constants.HF_HUB_OFFLINE) == (environment, offline)
    assert socket.getdefaulttimeout() is None
    after = [torch.hub.download_url_to_file, socket.getaddrinfo, socket.create_connection]
    assert after == functions


@pytest.mark.parametrize(
    "name, file",
    [
        ("musiq", "musiq_koniq_ckpt-e95806b9.pth"),
        ("lpips", "alexnet-owt-7be5be79.pth"),
        ("afine", "ViT-B-32.pt"),
        ("maniqa-pipal", "model hub's cache"),
        ("fid", "pt_inception-2015-12-05-6726825d.pth"),
    ],
)
def test_no_network_and_the_missing_file_is_named(
    name: str, file: str, monkeypatch, empty_caches: Path, capsys
):
    attempts = no_connections(monkeypatch)
    create = create_set_metric if name == "fid" else create_metric
    with pytest.raises(MetricUnavailable) as caught:
        create(name, allow_download=False)
    assert file in caught.value.remedy and "--allow_download" in caught.value.remedy
    assert attempts == [] and capsys.readouterr().out == ""
    assert not list(empty_caches.rglob("*.p*t*"))


def test_weights_that_are_there_are_used(monkeypatch, empty_caches: Path):
    """A file in pyiqa's cache is loaded without the network."""
    import pyiqa.archs.musiq_arch as musiq

    torch.save({"params": {}}, empty_caches / "musiq_koniq_ckpt-e95806b9.pth")
    monkeypatch.setattr(musiq.MUSIQ, "load_state_dict", lambda self, *a, **k: None)
    attempts = no_connections(monkeypatch)
    metric = create_metric("musiq", allow_download=False)
    assert attempts == [] and not metric.lower_better and not metric.full_reference


def test_a_missing_module_has_a_remedy(monkeypatch):
    def no_module(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'pkg_resources'", name="pkg_resources")

    monkeypatch.setattr("pyiqa.create_metric", no_module)
    with pytest.raises(MetricUnavailable, match="pkg_resources.*setuptools<81"):
        create_metric("clipiqa")


def test_protocols():
    osediff = make_protocol("osediff", None, 0, True)
    assert osediff.record()["options"]["psnr_y"] == {
        "pyiqa": "psnr", "test_y_channel": True, "color_space": "ycbcr",
    }  # fmt: skip
    assert set(PROTOCOLS["gdpo"]) - set(PROTOCOLS["osediff"]) == {"maniqa", "afine"}
    assert make_protocol("osediff", None, 0, False).metrics == (
        "niqe", "musiq", "maniqa-pipal", "clipiqa",
    )  # fmt: skip
    assert make_protocol(None, ["niqe", "niqe"], 4, True).metrics == ("niqe",)


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


def test_tf32_holds_while_a_metric_computes_and_no_longer():
    seen = []

    def model(images, references):
        seen.append(torch.get_float32_matmul_precision())
        if len(seen) == 2:
            raise ValueError("no score")
        return images.mean((1, 2, 3))

    metric = Metric("own", model, False, True)
    before = torch.get_float32_matmul_precision()
    images = torch.rand(1, 3, 8, 8)
    for precision in (None, "tf32", "tf32"):
        metric.precision = precision
        metric(images, images)
        assert torch.get_float32_matmul_precision() == before
    assert seen[0] == before
    assert set(seen[1:]) == {"high"}
