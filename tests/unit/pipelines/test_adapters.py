"""Several LoRAs on a pipeline, by diffusers' names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gdpo_sr import OneStepSRPipeline
from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.checkpoints.lora import add_lora, lora_parameters, save_lora
from gdpo_sr.checkpoints.meaning import Meaning
from gdpo_sr.types import OptionError
from tests.unit.pipelines.test_one_step_sr import restore


@torch.no_grad()
def fill(parameters: list[torch.nn.Parameter], seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.copy_(0.05 * torch.randn(parameter.shape, generator=rng))


@pytest.fixture
def pipe(base: Path) -> OneStepSRPipeline:
    return OneStepSRPipeline.from_pretrained(base)


@pytest.fixture(scope="module")
def loras(base: Path, tmp_path_factory) -> dict[str, Path]:
    """Two of stage 2 with other timesteps and prompts than the base, and one of stage 1."""
    root = tmp_path_factory.mktemp("loras")
    found = {}
    for seed, name in enumerate(("a", "b")):
        unet = OneStepSRPipeline.from_pretrained(base).unet
        fill(add_lora(unet, rank=2), seed)
        meaning = Meaning(t_add=300 + seed, t_diff=90, prompt=f"as {name}")
        found[name] = save_lora(unet, root / name, meaning)
    pipe = OneStepSRPipeline.from_pretrained(base)
    adapters = GeneratorAdapters(pipe.unet, pipe.vae)
    adapters.add(2)
    fill(lora_parameters(pipe.unet) + lora_parameters(pipe.vae), 3)
    with torch.no_grad():
        adapters.conv_in.weight.mul_(1.1)
    found["first"] = adapters.save(root / "first", Meaning())
    return found


def test_they_are_switched_and_weighed(pipe: OneStepSRPipeline, loras):
    pipe.load_lora_weights(loras["a"], "a")
    alone = {"a": restore(pipe, t_add=100)}
    pipe.load_lora_weights(loras["b"], "b")
    alone["b"] = restore(pipe, t_add=100)
    assert pipe.get_list_adapters() == ["a", "b"] and pipe.get_active_adapters() == ["b"]
    pipe.set_adapters("a")
    torch.testing.assert_close(restore(pipe, prompt="as a", t_add=100), alone["a"])
    assert pipe.get_active_adapters() == ["a"]
    pipe.set_adapters(["a", "b"], [0.0, 1.0])
    torch.testing.assert_close(restore(pipe, t_add=100), alone["b"])
    pipe.set_adapters(["a", "b"], [0.5, 1.0])
    assert not torch.equal(restore(pipe, t_add=100), alone["b"])
    assert not any(p.requires_grad for p in pipe.unet.parameters())


def test_fused_is_the_same_function(pipe: OneStepSRPipeline, loras):
    for name in ("a", "b"):
        pipe.load_lora_weights(loras[name], name)
    pipe.set_adapters(["a", "b"], [0.7, 0.3])
    active = restore(pipe)
    pipe.fuse_lora()
    torch.testing.assert_close(restore(pipe), active, atol=1e-4, rtol=0)
    pipe.unfuse_lora()
    torch.testing.assert_close(restore(pipe), active, atol=1e-4, rtol=0)


@pytest.mark.parametrize("names", [["a", "b"], ["first"], ["first", "a"]])
def test_unloaded_is_the_base(pipe: OneStepSRPipeline, loras, names: list[str]):
    """Weights, VAE, timesteps and prompt."""
    usual = restore(pipe)
    for name in names:
        pipe.load_lora_weights(loras[name], name)
    assert not torch.equal(restore(pipe), usual)
    pipe.unload_lora_weights()
    assert torch.equal(restore(pipe), usual) and pipe.get_list_adapters() == []
    pipe.load_lora_weights(loras["b"], "b")
    assert pipe.config.prompt == "as b"


def test_stage_1_is_weighed_as_a_whole(base: Path, pipe: OneStepSRPipeline, loras):
    """UNet, VAE and input convolution."""
    usual = restore(pipe)
    pipe.load_lora_weights(loras["first"], "first")
    tuned = restore(pipe)
    pipe.set_adapters("first", 0.0)
    torch.testing.assert_close(restore(pipe), usual, atol=1e-5, rtol=0)
    pipe.set_adapters("first")
    torch.testing.assert_close(restore(pipe), tuned, atol=1e-5, rtol=0)
    pipe.load_lora_weights(loras["a"], "a")
    pipe.set_adapters("a")
    pipe.scheduler.set_timesteps_pair(250, 100)
    fresh = OneStepSRPipeline.from_pretrained(base)
    fresh.load_lora_weights(loras["a"])
    fresh.scheduler.set_timesteps_pair(250, 100)
    torch.testing.assert_close(restore(pipe), restore(fresh), atol=1e-5, rtol=0)


def test_wrong_arguments(pipe: OneStepSRPipeline, loras):
    with pytest.raises(OptionError, match="'a' is not loaded: choose from none"):
        pipe.set_adapters("a")
    pipe.load_lora_weights(loras["a"], "a")
    with pytest.raises(OptionError, match="2 values for 1 adapters"):
        pipe.set_adapters(["a"], [1.0, 2.0])
    with pytest.raises(OptionError, match="'c' is not loaded: choose from a"):
        pipe.fuse_lora(["c"])


def test_a_file_in_diffusers_keys(base: Path, pipe: OneStepSRPipeline, loras, tmp_path: Path):
    """Loaded by its path."""
    unet = OneStepSRPipeline.from_pretrained(base).unet
    fill(add_lora(unet, rank=2, alpha=2), 1)
    tensors = {
        f"unet.{name.replace('.default', '')}": p.detach().clone()
        for name, p in unet.named_parameters()
        if ".lora_" in name
    }
    save_file(tensors, tmp_path / "some.safetensors")
    pipe.load_lora_weights(tmp_path / "some.safetensors")
    expected = OneStepSRPipeline.from_pretrained(base)
    expected.load_lora_weights(save_lora(unet, tmp_path / "own"))
    assert torch.equal(restore(pipe), restore(expected))
