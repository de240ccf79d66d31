"""Families: what differs between kinds of networks is found by the class that a config names."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from torch import nn

from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.checkpoints.lora import adapters_disabled, add_lora, lora_parameters
from gdpo_sr.generators.families import NETWORKS, network_family
from gdpo_sr.generators.family import NetworkFamily
from gdpo_sr.generators.latent_rrdb import LatentRRDBFamily, LatentRRDBNet
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.types import CheckpointError


def rrdb() -> LatentRRDBNet:
    torch.manual_seed(0)
    return LatentRRDBNet(in_channels=12, num_feat=8, num_grow_ch=4, num_block=1)


def with_network(base: Path, folder: Path, network: ModelMixin, prediction: str) -> Path:
    """A copy of a base with another network in it."""
    shutil.copytree(base, folder)
    shutil.rmtree(folder / "unet")
    network.save_pretrained(folder / "unet")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": prediction}))
    return folder


def test_lora_of_latent_rrdb_is_on_two_convolutions_of_every_dense_block():
    network = rrdb()
    convolutions = {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    chosen = {n for n in convolutions if re.fullmatch(LatentRRDBFamily.lora_targets, n)}
    blocks = {n.rpartition(".")[0] for n in convolutions if ".rdb" in n}
    assert chosen == {"noise_in"} | {f"{block}.conv{i}" for block in blocks for i in (1, 2)}
    add_lora(network, rank=2)
    adapted = {n.partition(".lora_")[0] for n, _ in network.named_parameters() if "lora_" in n}
    assert adapted == chosen


def test_latent_rrdb_restores_and_carries_adapters_of_both_stages(base: Path, tmp_path: Path):
    folder = with_network(base, tmp_path / "base", rrdb(), "sample")
    generator = build_generator(load_components(folder))
    assert generator.size_multiple == 4
    images = torch.rand(2, 3, 20, 12) * 2 - 1
    noise = torch.randn(generator.latent_shape(images))
    before = generator(images, noise)
    assert before.shape == images.shape
    adapters = GeneratorAdapters(generator.unet, generator.vae)
    adapters.add(rank=2)
    with torch.no_grad():
        for parameter in [*lora_parameters(generator.unet), *adapters.conv_in.parameters()]:
            parameter.add_(0.1)
    assert not torch.equal(generator(images, noise), before)
    with adapters.disabled():
        assert torch.equal(generator(images, noise), before)


def test_prediction_of_the_sample_is_what_comes_out(base: Path, tmp_path: Path):
    folder = with_network(base, tmp_path / "base", rrdb(), "sample")
    generator = build_generator(load_components(folder))
    noisy, embeds = torch.randn(1, 12, 5, 5), torch.zeros(1, 8, 16)
    restored = generator.predict_x0(noisy, embeds)
    assert torch.allclose(restored, generator.unet(noisy).sample, atol=1e-4)


class Blur(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """A family of tomorrow: one convolution with a call of its own."""

    @register_to_config
    def __init__(self, in_channels: int = 12) -> None:
        super().__init__()
        self.layer = nn.Conv2d(in_channels, in_channels, 3, padding=1)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layer(latents)


class BlurFamily(NetworkFamily):
    network, lora_targets, input_layer = Blur, "layer", "layer"

    def size_multiple(self, network: nn.Module) -> int:
        return 3

    def predict(self, network, noisy, t_diff, prompt_embeds):
        return network(noisy)


def test_a_new_family_is_one_class_and_its_name(base: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "Blur", BlurFamily())
    folder = with_network(base, tmp_path / "base", Blur(), "sample")
    generator = build_generator(load_components(folder))
    assert generator.size_multiple == 12
    images = torch.rand(1, 3, 12, 12) * 2 - 1
    noise = torch.randn(generator.latent_shape(images))
    before = generator(images, noise)
    for parameter in add_lora(generator.unet):
        nn.init.ones_(parameter)
    assert not torch.equal(generator(images, noise), before)
    with adapters_disabled(generator.unet):
        assert torch.equal(generator(images, noise), before)


def test_sharding_makes_a_subclass_that_is_of_the_family():
    sharded = type("FSDPLatentRRDBNet", (LatentRRDBNet,), {})
    assert isinstance(network_family(sharded(num_feat=4, num_block=1)), LatentRRDBFamily)
    with pytest.raises(CheckpointError, match="Conv2d is none of UNet2DConditionModel"):
        network_family(nn.Conv2d(1, 1, 1))


def test_sdxl_is_refused_for_what_it_is(base: Path, tmp_path: Path):
    folder = shutil.copytree(base, tmp_path / "base")
    file = folder / "unet" / "config.json"
    config = json.loads(file.read_text()) | {"addition_embed_type": "text_time"}
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="SDXL is not supported"):
        load_components(folder)


@pytest.mark.parametrize("text", ["[]", "7", "{", "\ud83d"])
@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_a_config_of_another_kind_is_one_line(base: Path, tmp_path: Path, name: str, text: str):
    folder = shutil.copytree(base, tmp_path / "base")
    (folder / name).write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(CheckpointError, match=re.escape(name)) as told:
        load_components(folder)
    assert "\n" not in str(told.value)
