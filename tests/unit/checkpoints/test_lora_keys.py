"""LoRA files in diffusers' and kohya's keys, which must do what the same LoRA in PEFT's does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gdpo_sr.checkpoints.lora import add_lora, find_adapter, load_lora, save_lora
from gdpo_sr.checkpoints.meaning import Meaning, read_meaning
from gdpo_sr.types import CheckpointError
from tests.unit.checkpoints.test_lora import build_unet, fill, output

RANK, ALPHA = 2, 6
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tuned() -> tuple[Tensors, torch.Tensor, torch.Tensor]:
    """A LoRA by module, the output of its UNet, and that of the base."""
    unet = build_unet()
    base = output(unet)
    add_lora(unet, RANK, ALPHA)
    fill(unet)
    tensors = {
        name.replace(".default", ""): p.detach().clone()
        for name, p in unet.named_parameters()
        if ".lora_" in name
    }
    return tensors, output(unet), base


def diffusers_keys(tensors: Tensors) -> tuple[Tensors, dict[str, str]]:
    """As diffusers writes them today: alpha is in the metadata."""
    values = {"r": RANK, "lora_alpha": ALPHA, "target_modules": ["to_q", "conv_in"]}
    modules = sorted({key.partition(".lora_")[0] for key in tensors})
    values["target_modules"] = modules
    metadata = {f"unet.{key}": value for key, value in values.items()}
    return {f"unet.{k}": v for k, v in tensors.items()}, {
        "lora_adapter_metadata": json.dumps(metadata)
    }


def scaled_diffusers_keys(tensors: Tensors) -> tuple[Tensors, dict[str, str]]:
    """Without metadata: alpha is the rank."""
    found = {k: v * ALPHA / RANK if ".lora_B." in k else v for k, v in tensors.items()}
    return {f"unet.{k}": v for k, v in found.items()}, {}


def old_diffusers_keys(tensors: Tensors) -> tuple[Tensors, dict[str, str]]:
    """Before PEFT: attention processors, `down` and `up`."""
    found = {}
    for key, value in scaled_diffusers_keys(tensors)[0].items():
        module, _, kind = key.partition(".lora_")
        side = "down" if kind.startswith("A") else "up"
        stem, _, last = module.rpartition(".")
        if "attn" in module and last in ("to_q", "to_k", "to_v"):
            found[f"{stem}.processor.{last}_lora.{side}.weight"] = value
        elif module.endswith(".to_out.0"):
            stem = module.removesuffix(".to_out.0")
            found[f"{stem}.processor.to_out_lora.{side}.weight"] = value
        else:
            found[f"{module}.lora.{side}.weight"] = value
    return found, {}


def kohya_keys(tensors: Tensors) -> tuple[Tensors, dict[str, str]]:
    """Underscores; convolutions of 3x3 have an alpha of their own, scaled to the same function."""
    found = {}
    for key, value in tensors.items():
        module, _, kind = key.partition(".lora_")
        flat = f"lora_unet_{module.replace('.', '_')}"
        alpha = 1.0 if ".conv" in module else float(ALPHA)
        if kind.startswith("B"):
            value = value * ALPHA / alpha
        side = "down" if kind.startswith("A") else "up"
        found[f"{flat}.lora_{side}.weight"] = value
        found[f"{flat}.alpha"] = torch.tensor(alpha)
    return found, {}


def more_rank_in_kohya_keys(tensors: Tensors) -> tuple[Tensors, dict[str, str]]:
    """One module of twice the rank, half of which does nothing."""
    found, _ = kohya_keys(tensors)
    stem = "lora_unet_conv_in"
    down, up = (found[f"{stem}.lora_{side}.weight"] for side in ("down", "up"))
    found[f"{stem}.lora_down.weight"] = torch.cat([down, down])
    found[f"{stem}.lora_up.weight"] = torch.cat([2 * up, 0 * up], 1)
    return found, {}


FORMS = [
    diffusers_keys,
    scaled_diffusers_keys,
    old_diffusers_keys,
    kohya_keys,
    more_rank_in_kohya_keys,
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("trainable", [False, True])
def test_it_is_the_same_lora(tuned, tmp_path: Path, form, trainable: bool):
    tensors, expected, base = tuned
    found, metadata = form(tensors)
    save_file(found, tmp_path / "lora.safetensors", metadata)
    unet = build_unet()
    parameters = load_lora(unet, tmp_path / "lora.safetensors", trainable=trainable)
    assert (expected - base).abs().max() > 1e-2
    torch.testing.assert_close(output(unet), expected, atol=1e-5, rtol=0)
    assert all(p.requires_grad is trainable for p in parameters)


def test_it_can_be_saved_and_read_again(tuned, tmp_path: Path):
    """In PEFT's format, ranks and alphas of single modules included."""
    save_file(more_rank_in_kohya_keys(tuned[0])[0], tmp_path / "lora.safetensors")
    unet, again = build_unet(), build_unet()
    load_lora(unet, tmp_path / "lora.safetensors")
    load_lora(again, save_lora(unet, tmp_path / "own"))
    torch.testing.assert_close(output(again), output(unet), atol=1e-6, rtol=0)


def test_a_folder_of_diffusers(tuned, tmp_path: Path):
    """With what the LoRA means beside it, if anything."""
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(scaled_diffusers_keys(tuned[0])[0], file)
    assert find_adapter(tmp_path) == file
    assert read_meaning(file) == Meaning()
    Meaning(t_add=123).write(tmp_path)
    assert read_meaning(file).t_add == 123


DEFECTS = {
    "text encoder": ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "no weight"),
    "text encoder of diffusers": ("text_encoder.a.lora_A.weight", "no weight of a plain LoRA"),
    "DoRA": ("lora_unet_conv_in.dora_scale", "no weight of a plain LoRA"),
    "another architecture": ("lora_unet_nothing.lora_down.weight", "module that this base lacks"),
    "another kind": ("lora_unet_conv_in.hada_w1_a", "no weight of a plain LoRA"),
    "bad alpha": ("lora_unet_conv_in.alpha", "is no number of 0 or more"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_wrong_file_is_refused_by_its_key(tuned, tmp_path: Path, defect: str):
    key, words = DEFECTS[defect]
    tensors = kohya_keys(tuned[0])[0] | {key: torch.tensor(float("nan"))}
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=words) as caught:
        load_lora(build_unet(), tmp_path / "lora.safetensors")
    assert f"'{key}'" in str(caught.value)


def test_a_missing_half_is_named(tuned, tmp_path: Path):
    tensors = kohya_keys(tuned[0])[0]
    del tensors["lora_unet_conv_in.lora_up.weight"]
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 'conv_in.lora_B.weight'"):
        load_lora(build_unet(), tmp_path / "lora.safetensors")


def test_a_damaged_file(tmp_path: Path):
    (tmp_path / "lora.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_lora(build_unet(), tmp_path / "lora.safetensors")


def test_metadata_of_another_kind(tuned, tmp_path: Path):
    found, metadata = diffusers_keys(tuned[0])
    values = json.loads(metadata["lora_adapter_metadata"]) | {"unet.use_dora": True}
    metadata = {"lora_adapter_metadata": json.dumps(values)}
    save_file(found, tmp_path / "lora.safetensors", metadata)
    with pytest.raises(CheckpointError, match="use_dora = true is not supported"):
        load_lora(build_unet(), tmp_path / "lora.safetensors")
