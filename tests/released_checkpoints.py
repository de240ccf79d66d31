"""Recordings of the released code's checkpoints: put them on networks of ours, compare checksums,
and write adapters of ours in the released layout.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from gdpo_sr.checkpoints.convert import attach_checkpoint, read_checkpoint, unet_adapter
from gdpo_sr.checkpoints.load_adapter import merge_adapters
from gdpo_sr.checkpoints.lora import attach_lora
from gdpo_sr.checkpoints.released_layout import PARTS, Tensors, own_name
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator


def merge_released(generator: NoiseAwareGenerator, path: Path) -> None:
    """All active adapters of a stage-1 or stage-2 checkpoint."""
    attach_checkpoint(generator, read_checkpoint(path), path)
    merge_adapters(generator)


def load_as_one_adapter(unet: nn.Module, path: Path) -> dict[str, nn.Parameter]:
    """The UNet's adapters, trainable, and their parameters by released name."""
    attach_lora(unet, unet_adapter(read_checkpoint(path)), path, trainable=True)
    parameters = dict(unet.named_parameters())
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict_unet"]
    return {
        key: parameters[own_name(key).replace(".weight", ".default.weight")]
        for key in state
        if ".lora_" in key
    }


def part_of(module: str) -> str:
    """Which of the released adapters adapts a module of UNet or VAE."""
    if module.startswith(("down_blocks", "conv_in", "encoder", "quant_conv")):
        return "encoder"
    return "decoder" if module.startswith(("up_blocks", "decoder")) else "others"


def released_network(tensors: Tensors, network: str, rank: int) -> dict:
    """Keys of a released checkpoint that are about one network."""
    state = {f"{network}_lora_{part}_modules": [] for part in PARTS}
    named = {}
    for key, tensor in tensors.items():
        module, _, kind = key.partition(".lora_")
        part = part_of(module)
        modules = state[f"{network}_lora_{part}_modules"]
        if module not in modules:
            modules.append(module)
        named[f"{module}.lora_{kind[0]}.default_{part}.weight"] = tensor
    return {**state, f"rank_{network}": rank, f"state_dict_{network}": named}


def released_state(unet: Tensors, conv_in: Tensors, vae: Tensors, rank: int) -> dict:
    """A checkpoint of stage 1, or of stage 2 where `vae` is empty; tensors by our names."""
    state = released_network(unet, "unet", rank)
    base_layer = {f"conv_in.base_layer.{name}": value for name, value in conv_in.items()}
    state["state_dict_unet"] = base_layer | state["state_dict_unet"]
    return state | (released_network(vae, "vae", rank) if vae else {})


def checksums(tensor: torch.Tensor) -> dict[str, float]:
    """Sum, l2 and absmax in float64, as recorded."""
    t = tensor.detach().double()
    return {"sum": float(t.sum()), "l2": float(t.norm()), "absmax": float(t.abs().max())}


def checksum_error(tensors: Tensors, recorded: dict[str, dict]) -> float:
    """Largest difference of a checksum, relative to the size of the tensor's entries."""
    errors = []
    for name, expected in recorded.items():
        own, count = checksums(tensors[name]), tensors[name].numel()
        assert list(tensors[name].shape) == expected["shape"], name
        scale = {
            "sum": expected["absmax"] * count,
            "l2": expected["l2"],
            "absmax": expected["absmax"],
        }
        errors += [abs(own[k] - expected[k]) / max(scale[k], 1e-12) for k in own]
    return max(errors)
