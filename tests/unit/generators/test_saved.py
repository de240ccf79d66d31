"""Networks that are saved in diffusers' layout without diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gdpo_sr.generators.lapped_autoencoder import LappedAutoencoder
from gdpo_sr.generators.latent_rrdb import LatentRRDBNet
from gdpo_sr.generators.one_step import OneStepScheduler
from gdpo_sr.generators.saved import SavedNetwork, follows_offloading, keeps_config

WEIGHTS = "diffusion_pytorch_model"


class Line(SavedNetwork):
    """a x + b, with a constant that is saved with it."""

    @keeps_config
    def __init__(self, width: int = 2, *, start: float = 1.0) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)
        self.register_buffer("origin", torch.full((1,), start))


def test_config_holds_every_argument_given_or_not():
    line = Line(3)
    assert dict(line.config) == {"width": 3, "start": 1.0}
    assert line.config.width == line.config["width"] == 3
    with pytest.raises(AttributeError, match="no setting 'depth' among width, start"):
        line.config.depth  # noqa: B018
    line.register_to_config(start=4.0)
    assert line.config.start == 4.0


def test_what_is_saved_is_loaded(tmp_path: Path):
    line = Line(3, start=7.0).half()
    line.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "Line"
    loaded = Line.from_pretrained(tmp_path)
    assert loaded.config == line.config and loaded.dtype == torch.float32
    assert not loaded.training and loaded.layer.weight.requires_grad
    for name, value in line.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.float())
    assert Line.from_pretrained(tmp_path, torch_dtype=torch.float16).dtype == torch.float16


def test_diffusers_reads_the_same_files(tmp_path: Path):
    """The layout is theirs, not one like it."""
    from diffusers import ConfigMixin, ModelMixin
    from diffusers.configuration_utils import register_to_config

    class Theirs(ModelMixin, ConfigMixin):
        @register_to_config
        def __init__(self, width: int = 2, start: float = 1.0) -> None:
            super().__init__()
            self.layer = nn.Linear(width, 1)
            self.register_buffer("origin", torch.zeros(1))

    line = Line(3, start=5.0)
    line.save_pretrained(tmp_path / "ours")
    theirs = Theirs.from_pretrained(tmp_path / "ours")
    assert theirs.config.width == 3 and torch.equal(theirs.layer.weight, line.layer.weight)
    theirs.save_pretrained(tmp_path / "theirs")
    back = Line.from_pretrained(tmp_path / "theirs")
    assert back.config == line.config and torch.equal(back.origin, torch.tensor([5.0]))


def test_pickled_and_variant_files(tmp_path: Path):
    line = Line()
    line.save_pretrained(tmp_path)
    plain = tmp_path / f"{WEIGHTS}.safetensors"
    torch.save(load_file(plain), tmp_path / f"{WEIGHTS}.bin")
    plain.rename(tmp_path / f"{WEIGHTS}.fp16.safetensors")
    with pytest.raises(OSError, match=f"{WEIGHTS}.safetensors"):
        Line.from_pretrained(tmp_path)
    for options in ({"variant": "fp16"}, {"use_safetensors": False}):
        loaded = Line.from_pretrained(tmp_path, **options)
        assert torch.equal(loaded.layer.weight, line.layer.weight)


def test_missing_and_misshapen_weights_are_told(tmp_path: Path):
    Line().save_pretrained(tmp_path)
    file = tmp_path / f"{WEIGHTS}.safetensors"
    weights = load_file(file)
    save_file({"layer.weight": weights["layer.weight"], "origin": weights["origin"]}, file)
    with pytest.raises(RuntimeError, match=r"lacks weights, such as 'layer\.bias'"):
        Line.from_pretrained(tmp_path)
    _, report = Line.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == ["layer.bias"]
    save_file({**weights, "layer.weight": torch.zeros(1, 5)}, file)
    with pytest.raises(RuntimeError, match="size mismatch for layer.weight"):
        Line.from_pretrained(tmp_path)


def test_adapters_are_those_of_diffusers():
    from peft import LoraConfig

    line, x = Line(), torch.ones(1, 2)
    before = line.layer(x)
    line.add_adapter(LoraConfig(r=1, target_modules=["layer"], init_lora_weights=False), "one")
    assert line.active_adapters() == ["one"] and not torch.equal(line.layer(x), before)
    line.disable_adapters()
    assert torch.equal(line.layer(x), before)
    line.enable_adapters()
    changed = line.layer(x)
    line.fuse_lora()
    line.unload_lora()
    assert type(line.layer) is nn.Linear and torch.allclose(line.layer(x), changed, atol=1e-6)


def test_an_offloaded_network_is_brought_first():
    class Hook:
        seen = 0

        def pre_forward(self, module: nn.Module) -> None:
            self.seen += 1

    class Reader(nn.Module):
        @follows_offloading
        def encode(self, x: int) -> int:
            return x + 1

    reader, hook = Reader(), Hook()
    assert reader.encode(1) == 2
    reader._hf_hook = hook
    assert reader.encode(2) == 3 and hook.seen == 1


def test_a_scheduler_of_another_class_gives_what_both_know(tmp_path: Path):
    values = {"_class_name": "DDPMScheduler", "beta_end": 0.02, "clip_sample": False, "t_add": 300}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(values))
    config = OneStepScheduler.from_pretrained(tmp_path).config
    assert (config.beta_end, config.t_add, config.t_diff) == (0.02, 300, 100)
    assert "clip_sample" not in config


@pytest.mark.parametrize("network", [LatentRRDBNet(num_feat=4, num_grow_ch=4, num_block=1)])
def test_our_networks_answer_as_those_of_diffusers(network: LatentRRDBNet):
    vae = LappedAutoencoder(4, 24)
    latents = vae.encode(torch.zeros(1, 3, 8, 8)).latent_dist
    assert torch.equal(latents.mode(), latents.sample()) and not latents.std.any()
    assert vae.decode(latents.mean).sample.shape == (1, 3, 8, 8)
    assert network(latents.mean, 100).sample.shape == latents.mean.shape
