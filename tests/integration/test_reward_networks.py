"""The networks that papers reward with, on random weights: nothing is downloaded.

Two of them are built smaller than published, so that they take seconds; their code is pyiqa's.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch

from gdpo_sr.rewards.iqa_reward import IQAReward
from gdpo_sr.rewards.scoring import score_candidates

TINY_MANIQA = {"pretrained": False, "embed_dim": 48, "dim_mlp": 48}
NETWORKS: dict[str, dict[str, Any]] = {
    "musiq": {"pretrained": False},
    "maniqa": {**TINY_MANIQA, "test_sample": 1},
    "topiq_nr": {"pretrained": False, "backbone_pretrain": False},
    "clipiqa": {},
    "lpips": {"pretrained": False},
    "dists": {"pretrained": False},
}
FULL_REFERENCE = ("lpips", "dists")


def small_clip(*args: Any, **kwargs: Any) -> torch.nn.Module:
    from pyiqa.archs.clip_model import CLIP

    return CLIP(32, 64, (1, 1, 1, 1), 16, None, 77, 49408, 32, 2, 1).eval()


@pytest.fixture(autouse=True)
def no_pretrained_backbones(monkeypatch: pytest.MonkeyPatch):
    """Backbones with random weights, the same in every test."""
    import packaging.version

    # CLIP imports it for its copy of `packaging`; setuptools has not had it since version 81
    stand_in = types.SimpleNamespace(packaging=packaging)
    monkeypatch.setitem(sys.modules, "pkg_resources", stand_in)
    import pyiqa.archs.clipiqa_arch as clipiqa
    import pyiqa.archs.maniqa_arch as maniqa
    import timm
    import torchvision.models as models

    create, alexnet, vgg16 = timm.create_model, models.alexnet, models.vgg16
    small = {"embed_dim": 48, "depth": 10, "num_heads": 4}

    def vit(name: str, pretrained: bool) -> torch.nn.Module:
        return create(name, pretrained=False, **small)

    monkeypatch.setattr(maniqa, "timm", type("timm", (), {"create_model": staticmethod(vit)}))
    monkeypatch.setattr(clipiqa, "load", small_clip)
    monkeypatch.setattr(models, "alexnet", lambda **kwargs: alexnet(weights=None))
    monkeypatch.setattr(models, "vgg16", lambda **kwargs: vgg16(weights=None))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def group(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates (2, 2, 3, H, W) and HR pictures (2, 3, H, W)."""
    rng = torch.Generator().manual_seed(0)
    hr = torch.rand(2, 3, size, size, generator=rng)
    noise = 0.2 * torch.randn(2, 2, 3, size, size, generator=rng)
    return (hr[:, None] + noise).clamp(0, 1), hr


@pytest.mark.parametrize("name", NETWORKS)
def test_network_scores_groups(name: str):
    """Each candidate its own score, whatever the chunk, in the right direction and precision."""
    kind = "fidelity" if name in FULL_REFERENCE else "perception"
    reward = IQAReward(name, kind, options=NETWORKS[name])
    candidates, hr = group()
    scores = score_candidates({name: reward}, candidates, hr)[name]
    assert scores.shape == (2, 2) and scores.isfinite().all()
    reward._chunk = 1
    torch.testing.assert_close(reward(candidates, hr), scores, rtol=1e-3, atol=1e-4)
    raw = reward.metric(candidates.flatten(0, 1), hr.repeat_interleave(2, 0)).view(2, 2)
    assert reward.metric.lower_better is (name in FULL_REFERENCE)
    sign = -1 if reward.metric.lower_better else 1
    torch.testing.assert_close(scores, sign * raw, rtol=1e-3, atol=1e-4)
    reward.metric.precision = torch.bfloat16
    assert reward(candidates, hr).isfinite().all()


def test_weights_of_variants_are_kept_apart():
    import pyiqa

    assert {"maniqa", "maniqa-pipal"} <= set(pyiqa.list_models())


def test_flipping_shows_maniqa_the_lowest_rows():
    """Twenty crops of a grid of 25 on 512 pixels: the lowest 72 rows are in none of them."""
    hr = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    changed = hr.clone()
    changed[..., -72:, :] = 0.5
    candidates = torch.stack([hr, changed], 1)
    rng = torch.Generator()
    reward = IQAReward("maniqa", "perception", options=TINY_MANIQA, flip_rng=rng)
    spreads = []
    for seed in range(20):
        if len({s == 0 for s in spreads}) == 2:
            break
        rng.manual_seed(seed)
        scores = reward(candidates, hr)[0]
        spreads.append(float((scores[0] - scores[1]).abs()))
    assert min(spreads) == 0 and max(spreads) > 0
