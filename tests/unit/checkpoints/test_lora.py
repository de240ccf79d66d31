"""LoRA on the UNet: where it sits, that it can be switched off, saved, loaded and merged."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from gdpo_sr.checkpoints import adapter_config
from gdpo_sr.checkpoints.lora import (
    WEIGHTS_FILE,
    adapter_active,
    adapter_of,
    adapters_disabled,
    add_lora,
    attach_lora,
    find_adapter,
    load_lora,
    lora_parameters,
    merge_lora,
    save_lora,
)
from gdpo_sr.types import CheckpointError, OptionError


def build_unet(width: int = 8, blocks: int = 2) -> UNet2DConditionModel:
    """A UNet with cross-attention at every scale; the same weights at every call."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(width,) * blocks,
        down_block_types=("CrossAttnDownBlock2D",) * blocks,
        up_block_types=("CrossAttnUpBlock2D",) * blocks,
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    ).requires_grad_(False)


@torch.no_grad()
def output(unet: UNet2DConditionModel) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=rng)
    return unet(latents, 100, torch.randn(2, 5, 8, generator=rng)).sample


@torch.no_grad()
def fill(unet: UNet2DConditionModel) -> None:
    """Give the adapter weights that show in the output."""
    rng = torch.Generator().manual_seed(2)
    for parameter in lora_parameters(unet):
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))


@pytest.fixture(scope="module")
def built() -> tuple[UNet2DConditionModel, torch.Tensor]:
    """A UNet with a filled adapter, and the output of its base."""
    unet = build_unet()
    base = output(unet)
    add_lora(unet)
    fill(unet)
    return unet, base


@pytest.fixture
def tuned(built) -> tuple[UNet2DConditionModel, torch.Tensor]:
    return copy.deepcopy(built[0]), built[1]


@pytest.fixture(scope="module")
def saved(built, tmp_path_factory) -> Path:
    return save_lora(built[0], tmp_path_factory.mktemp("run") / "models" / "lora_latest")


def test_a_new_adapter_changes_nothing():
    unet = build_unet()
    base = output(unet)
    parameters = add_lora(unet)
    assert torch.equal(output(unet), base)
    assert all(p.requires_grad for p in parameters)
    assert {id(p) for p in unet.parameters() if p.requires_grad} == {id(p) for p in parameters}


def test_targets_are_those_of_the_released_checkpoint(golden):
    """All 257 modules on a UNet of Stable Diffusion's shape, and no other."""
    config = json.loads(golden("tiny_unet_config.json").read_text())
    layout = json.loads(golden("stage2_layout.json").read_text())
    released = [
        m for part in ("encoder", "decoder", "others") for m in layout_modules(layout, part)
    ]
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
        add_lora(unet)
    ours = {
        name.partition(".lora_A.")[0] for name, _ in unet.named_parameters() if ".lora_A." in name
    }
    assert ours == set(released) and len(ours) == len(released) == 257
    shapes = {
        name.replace(".default.", "."): list(p.shape)
        for name, p in unet.named_parameters()
        if ".lora_" in name
    }
    for key, value in layout["state_dict_unet"].items():
        if ".lora_" in key:
            module, _, kind = key.partition(".lora_")
            assert shapes[f"{module}.lora_{kind[0]}.weight"] == value["shape"], key


def layout_modules(layout: dict, part: str) -> list[str]:
    return layout[f"unet_lora_{part}_modules"]


def test_the_reference_is_the_base_bit_for_bit(tuned):
    unet, base = tuned
    active = output(unet)
    assert (active - base).abs().max() > 1e-2
    with adapters_disabled(unet):
        assert torch.equal(output(unet), base)
    assert torch.equal(output(unet), active)


def test_what_is_trained_stays_so(tuned):
    """Also after an error inside, and with a parameter that was frozen before."""
    unet, _ = tuned
    lora_parameters(unet)[3].requires_grad_(False)
    flags = [p.requires_grad for p in unet.parameters()]
    with pytest.raises(RuntimeError, match="inside"), adapters_disabled(unet):
        raise RuntimeError("inside")
    assert [p.requires_grad for p in unet.parameters()] == flags
    assert output(unet).ne(0).any()


def test_one_of_two_adapters(tuned):
    """Each alone, both off; what is trained stays so; either is saved alone."""
    unet, base = tuned
    first = output(unet)
    add_lora(unet, rank=2, name="other")
    for parameter in lora_parameters(unet):
        parameter.requires_grad_(True)
    assert torch.equal(output(unet), base)  # the new one is active and still the identity
    with adapter_active(unet, "default"):
        assert torch.equal(output(unet), first)
        assert all(p.requires_grad for p in lora_parameters(unet))
    assert torch.equal(output(unet), base)
    assert all(p.requires_grad for p in lora_parameters(unet))
    counts = [len(lora_parameters(unet, name)) for name in (None, "default", "other")]
    assert counts[0] == counts[1] + counts[2] and counts[1] == counts[2]


def test_without_an_adapter_there_is_nothing_to_disable():
    unet = build_unet()
    with adapters_disabled(unet):
        assert torch.equal(output(unet), output(build_unet()))


def test_gradients_reach_the_adapter_after_the_reference_ran_in_mixed_precision(tuned):
    """Autocast keeps cast weights; those of a pass without gradients must not serve the policy."""
    unet, _ = tuned
    latents, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad(), adapters_disabled(unet):
            unet(latents, 100, text)
        unet(latents, 100, text).sample.float().square().mean().backward()
    assert all(p.grad is not None for p in lora_parameters(unet))


def test_saved_in_the_format_of_peft(built, saved: Path):
    config = json.loads((saved / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
    tensors = load_file(saved / "adapter_model.safetensors")
    assert len(tensors) == len(lora_parameters(built[0]))
    assert all(key.startswith("base_model.model.") for key in tensors)
    assert "base_model.model.conv_in.lora_A.weight" in tensors
    assert os.listdir(saved.parent) == [saved.name]


def test_saving_replaces_an_older_adapter(tuned, tmp_path: Path):
    unet, _ = tuned
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old.txt").write_text("old")
    save_lora(unet, tmp_path / "a")
    assert sorted(os.listdir(tmp_path / "a")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.mark.parametrize("up", [0, 1, 2])
def test_load_gives_the_same_outputs(tuned, saved: Path, up: int):
    """From the adapter's folder, the run's `models`, or the run."""
    unet = build_unet()
    folder = [saved, *saved.parents][up]
    parameters = load_lora(unet, folder)
    assert find_adapter(folder) == saved
    assert torch.equal(output(unet), output(tuned[0]))
    assert not any(p.requires_grad for p in parameters)
    with adapters_disabled(unet):
        assert torch.equal(output(unet), tuned[1])


def test_load_to_go_on_training(saved: Path):
    unet = build_unet()
    parameters = load_lora(unet, saved, trainable=True)
    assert all(p.requires_grad for p in parameters)
    assert sum(p.requires_grad for p in unet.parameters()) == len(parameters)


def test_other_rank_and_alpha_are_loaded(tmp_path: Path):
    unet, other = build_unet(), build_unet()
    add_lora(unet, rank=2, alpha=5)
    fill(unet)
    load_lora(other, save_lora(unet, tmp_path / "lora"))
    assert torch.equal(output(other), output(unet))


def test_merged_equals_active(tuned):
    unet, _ = tuned
    active = output(unet)
    merge_lora(unet)
    torch.testing.assert_close(output(unet), active, atol=1e-5, rtol=0)
    assert list(unet.state_dict()) == list(build_unet().state_dict())


@pytest.mark.parametrize(
    "other, message",
    [
        ({"width": 16}, "has shape"),
        ({"blocks": 1}, "which this base lacks"),
        ({"blocks": 3}, "has no weights for module"),
    ],
)
def test_an_adapter_of_another_architecture(saved: Path, other: dict, message: str):
    """The error names the adapter and the module; the UNet stays as it was."""
    unet = build_unet(**other)
    names, before = list(unet.state_dict()), output(unet)
    with pytest.raises(CheckpointError, match=message) as error:
        load_lora(unet, saved)
    assert str(saved) in str(error.value) and "\n" not in str(error.value)
    assert list(unet.state_dict()) == names and torch.equal(output(unet), before)


def test_a_truncated_adapter(saved: Path, tmp_path: Path):
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:200])
    (tmp_path / "adapter_config.json").write_bytes((saved / "adapter_config.json").read_bytes())
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_lora(build_unet(), tmp_path)


def test_a_config_of_another_rank(saved: Path, tmp_path: Path):
    """Both ranks are named; alpha over the wrong one would scale the adapter silently."""
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((saved / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    unet = build_unet()
    names = list(unet.state_dict())
    with pytest.raises(CheckpointError, match="has rank 4, adapter_config.json says 8"):
        load_lora(unet, tmp_path)
    assert list(unet.state_dict()) == names


def test_no_adapter(tmp_path: Path):
    with pytest.raises(CheckpointError, match="holds no LoRA"):
        load_lora(build_unet(), tmp_path)


def test_switching_does_not_walk_the_modules(tuned, monkeypatch):
    """Twice a step; the list of layers is made again when adapters change, and only then."""
    unet, base = tuned
    tuned_output = output(unet)
    with adapters_disabled(unet):
        pass
    monkeypatch.setattr(UNet2DConditionModel, "named_modules", None)
    with adapters_disabled(unet):
        assert torch.equal(output(unet), base)
        with adapters_disabled(unet):
            pass
        assert torch.equal(output(unet), base)
    assert torch.equal(output(unet), tuned_output)
    monkeypatch.undo()
    assert all(p.requires_grad for p in lora_parameters(unet))
    add_lora(unet, name="time", targets=r"time_embedding\.linear_1")
    unet.set_adapter("time")
    for parameter in lora_parameters(unet, "time"):
        torch.nn.init.ones_(parameter)
    assert not torch.equal(output(unet), base)
    with adapters_disabled(unet):
        assert torch.equal(output(unet), base)
    unet.delete_adapters("time")
    unet.set_adapter("default")
    with adapters_disabled(unet):
        assert torch.equal(output(unet), base)


def changed(saved: Path, folder: Path, config=None, tensors=None) -> Path:
    """A copy of an adapter with some values of its config, or its tensors, replaced."""
    shutil.copytree(saved, folder)
    values = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**values, **(config or {})}))
    if tensors is not None:
        save_file(tensors(load_file(saved / WEIGHTS_FILE)), folder / WEIGHTS_FILE)
    return folder


KEY = "base_model.model.conv_in.lora_A.weight"
KEY_B = "base_model.model.conv_in.lora_B.weight"
WRONG = {
    "target_modules in adapter_config.json leaves out": ({"target_modules": ["to_q"]}, None),
    "lacks 'conv_in.lora_A.weight'": ({}, lambda t: {k: v for k, v in t.items() if k != KEY}),
    "'conv_in.lora_magnitude_vector' is no weight": (
        {},
        lambda t: {**t, "base_model.model.conv_in.lora_magnitude_vector": torch.ones(8)},
    ),
    "use_dora = true is not supported": ({"use_dora": True}, None),
    "lora_bias = true is not supported": ({"lora_bias": True}, None),
    "is no regular expression": ({"target_modules": "("}, None),
    "need more than": ({"target_modules": r"(\w+\.?)+!"}, None),
    "conv_in.lora_A.weight holds NaN": ({}, lambda t: {**t, KEY: t[KEY] * torch.nan}),
    "r = null": ({"r": None}, None),
    'lora_alpha = "8"': ({"lora_alpha": "8"}, None),
    "target_modules = null": ({"target_modules": None}, None),
    "peft_type is not LORA": ({"peft_type": "IA3"}, None),
    "init_lora_weights = 'pissa_niter_16' goes with": (
        {"init_lora_weights": "pissa_niter_16"},
        None,
    ),
    "conv_in.lora_A.weight is of torch.int8": ({}, lambda t: {**t, KEY: t[KEY].to(torch.int8)}),
    "conv_in.lora_B.weight holds NaN or infinity": (
        {},
        lambda t: {**t, KEY_B: torch.full_like(t[KEY_B], torch.inf)},
    ),
    "for module 'conv_in.nothing', which this base lacks": (
        {},
        lambda t: {
            **t,
            **{k.replace("conv_in", "conv_in.nothing"): t[k].clone() for k in (KEY, KEY_B)},
        },
    ),
    "(\\\\w+\\\\.?)+!)$'] in adapter_config.json need more": (
        {"rank_pattern": {r"(\w+\.?)+!": 4}},
        None,
    ),
    "conv_in.lora_A.weight has rank 4, adapter_config.json says 2": (
        {"rank_pattern": {"conv_in": 2}},
        None,
    ),
    "target_modules = []": ({"target_modules": []}, None),
    "lora_alpha = null": ({"lora_alpha": None}, None),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_adapter_is_refused_by_name(saved: Path, tmp_path: Path, monkeypatch, message: str):
    """Before anything is changed, in one line that names the key."""
    monkeypatch.setattr(adapter_config, "_PATIENCE", 2.0)
    folder = changed(saved, tmp_path / "lora", *WRONG[message])
    unet = build_unet()
    names = list(unet.state_dict())
    with pytest.raises(CheckpointError, match=re.escape(message)) as told:
        load_lora(unet, folder)
    assert str(folder) in str(told.value) and "\n" not in str(told.value)
    assert list(unet.state_dict()) == names


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "7", "\xff"])
def test_a_config_that_is_none(saved: Path, tmp_path: Path, text: str):
    folder = changed(saved, tmp_path / "lora")
    (folder / "adapter_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"adapter_config.json") as told:
        load_lora(build_unet(), folder)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused_before_anything_changes(tuned, scale: float):
    """`--lora_scale nan` made every picture "no finite result"."""
    adapter, unet = adapter_of(tuned[0]), build_unet()
    with pytest.raises(OptionError, match=f"lora_scale = {scale}: use a number"):
        attach_lora(unet, adapter, "x", scale=scale)
    assert not hasattr(unet, "peft_config")
