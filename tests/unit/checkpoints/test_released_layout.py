"""The layout of released checkpoints: every stage is read, every defect is named."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from gdpo_sr.checkpoints.released_layout import own_name, read_layout
from gdpo_sr.types import CheckpointError

UNET_A = "conv_in.lora_A.default_encoder.weight"
UNET_B = "conv_in.lora_B.default_encoder.weight"
BASE = "conv_in.base_layer.weight"
VAE_A = "encoder.conv_in.lora_A.default_encoder.weight"


@pytest.fixture
def state(golden) -> Callable[[int], dict]:
    """A checkpoint of the recorded layout, with zeros for weights."""

    def build(stage: int) -> dict:
        layout = json.loads(golden(f"stage{stage}_layout.json").read_text())
        for network in ("unet", "vae") if stage == 1 else ("unet",):
            name = f"state_dict_{network}"
            layout[name] = {k: torch.zeros(v["shape"]) for k, v in layout[name].items()}
        return layout

    return build


def test_stage_1(state):
    """93 + 147 + 17 modules of the UNet, 31 of the VAE's encoder; its decoder's are left out."""
    found = read_layout(state(1), "a.pkl")
    assert found.stage == 1 and (found.rank_unet, found.rank_vae) == (4, 4)
    assert len(found.unet) == 2 * 257 and len(found.vae) == 2 * 31
    assert "mid_block.resnets.0.conv1.lora_B.weight" in found.unet
    assert not any(key.startswith("decoder") for key in found.vae)
    assert {name: tuple(t.shape) for name, t in found.conv_in.items()} == {
        "weight": (16, 4, 3, 3),
        "bias": (16,),
    }


def test_stage_2(state):
    found = read_layout(state(2), "a.pkl")
    assert found.stage == 2 and len(found.unet) == 514 and found.vae == {} and found.rank_vae == 0


def test_without_the_parts_that_an_older_code_lacks(state):
    """OSEDiff's checkpoints have no adapter of the VAE's decoder, the fake score's no conv_in."""
    first, second = state(1), state(2)
    for key in list(first["state_dict_vae"]):
        if ".default_decoder." in key:
            del first["state_dict_vae"][key]
    del first["vae_lora_decoder_modules"], first["vae_lora_others_modules"]
    assert len(read_layout(first, "a.pkl").vae) == 62
    del second["state_dict_unet"][BASE], second["state_dict_unet"]["conv_in.base_layer.bias"]
    assert read_layout(second, "a.pkl").conv_in == {}


def test_own_names():
    assert own_name(UNET_A) == "conv_in.lora_A.weight"
    assert own_name("mid_block.resnets.0.conv1.lora_B.default_others.weight") == (
        "mid_block.resnets.0.conv1.lora_B.weight"
    )


DEFECTS = {
    "no dict": (lambda s: [1, 2], "holds a list, not a dict"),
    "another project's part": (lambda s: {**s, "proj": {}}, "holds 'proj'"),
    "no rank": (lambda s: drop(s, "rank_unet"), "lacks 'rank_unet' (int)"),
    "a rank that is none": (lambda s: {**s, "rank_unet": "4"}, "'rank_unet' is a str, expected a"),
    "no list": (lambda s: drop(s, "unet_lora_others_modules"), "lacks 'unet_lora_others_modules'"),
    "no weights": (lambda s: drop(s, "state_dict_unet"), "lacks 'state_dict_unet' (dict)"),
    "a tensor less": (lambda s: unet(s, UNET_B, None), f"lacks '{UNET_B}'"),
    "a module too many": (
        lambda s: unet(s, "x.lora_A.default_others.weight", torch.zeros(4, 9)),
        "'x.lora_A.default_others.weight' is of a module that 'unet_lora_others_modules'",
    ),
    "a module of two adapters": (
        lambda s: unet(s, "conv_in.lora_A.default_decoder.weight", torch.zeros(4, 4, 3, 3)),
        "or another adapter has too",
    ),
    "unknown adapter": (
        lambda s: unet(s, "conv_in.lora_A.pixel.weight", torch.zeros(4, 4, 3, 3)),
        "unknown adapter 'pixel', expected one of default_encoder",
    ),
    "no LoRA": (
        lambda s: unet(s, "conv_out.weight", torch.zeros(4, 4)),
        "'conv_out.weight' is no LoRA tensor",
    ),
    "no tensor": (lambda s: unet(s, UNET_A, 3), "is a int, expected a tensor"),
    "wrong rank of A": (
        lambda s: unet(s, UNET_A, torch.zeros(8, 4, 3, 3)),
        "has shape (8, 4, 3, 3), rank_unet = 4 expects (4, in)",
    ),
    "wrong rank of B": (
        lambda s: unet(s, UNET_B, torch.zeros(16, 8, 1, 1)),
        "has shape (16, 8, 1, 1), rank_unet = 4 expects (out, 4",
    ),
    "wrong stored rank": (lambda s: {**s, "rank_vae": 8}, "rank_vae = 8 expects"),
    "no base layer": (lambda s: unet(s, BASE, None), f"lacks '{BASE}'"),
    "base layer of another size": (
        lambda s: unet(s, BASE, torch.zeros(32, 4, 3, 3)),
        "has shape (32, 4, 3, 3), its adapter expects (16, 4, 3, 3)",
    ),
}


def drop(state: dict, key: str) -> dict:
    return {name: value for name, value in state.items() if name != key}


def unet(state: dict, key: str, value: object) -> dict:
    tensors = drop(state["state_dict_unet"], key)
    return {**state, "state_dict_unet": tensors | ({} if value is None else {key: value})}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_named(state, defect: str):
    change, message = DEFECTS[defect]
    with pytest.raises(CheckpointError) as error:
        read_layout(change(state(1)), "a.pkl")
    text = str(error.value)
    assert text.startswith("'a.pkl'") and message in text and "\n" not in text and ": " in text
