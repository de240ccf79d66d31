"""LatentRRDBNet: RRDBNet between two fixed filters, and the path by which noise comes in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdpo_sr.generators.latent_rrdb import LatentRRDBNet
from gdpo_sr.utils.basicsr import load


@pytest.fixture
def network() -> LatentRRDBNet:
    torch.manual_seed(0)
    return LatentRRDBNet(num_feat=8, num_grow_ch=4, num_block=1).eval()


def draw(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 24, 8, 6, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_it_is_rrdbnet_where_noise_has_no_weight(network: LatentRRDBNet):
    """Same weights, same picture as basicsr's network of the filtered latents."""
    torch.nn.init.zeros_(network.noise_in.weight)
    torch.nn.init.zeros_(network.noise_in.bias)
    theirs = load("basicsr.archs.rrdbnet_arch").RRDBNet(3, 3, 4, 8, 1, 4).eval()
    theirs.load_state_dict(
        {k: v for k, v in network.state_dict().items() if k in theirs.state_dict()}
    )
    torch.testing.assert_close(network.picture(draw()), theirs(network.lr_filter(draw())))


@torch.no_grad()
def test_what_the_lr_picture_explains_is_no_noise(network: LatentRRDBNet):
    """Latents that are latent_gain times those of their LR picture leave nothing for `noise_in`."""
    network.lr_filter.weight.zero_()
    grey = network.lr_filter(draw())
    explained = network.config.latent_gain * network.lr_latents(grey)
    before = network.picture(explained), network.picture(explained + draw())
    network.noise_in.weight.mul_(10)
    torch.testing.assert_close(network.picture(explained), before[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(network.picture(explained + draw()), before[1], atol=1e-2)


@torch.no_grad()
def test_shapes_order_of_memory_and_prompt_change_nothing(network: LatentRRDBNet):
    sample = draw()
    restored = network(sample).sample
    assert restored.shape == sample.shape
    assert network.picture(sample).shape == (2, 3, 32, 24)
    other = network(sample.contiguous(memory_format=torch.channels_last), 100, torch.ones(2, 3, 32))
    torch.testing.assert_close(other.sample, restored)


@torch.no_grad()
def test_save_and_load(network: LatentRRDBNet, tmp_path: Path):
    network.save_pretrained(tmp_path / "network")
    again = LatentRRDBNet.from_pretrained(tmp_path / "network").eval()
    assert torch.equal(again(draw()).sample, network(draw()).sample)
