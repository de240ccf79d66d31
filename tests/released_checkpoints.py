"""The released checkpoint layout: merge its LoRA adapters, or load them into one adapter of ours.

Layout: a pickled dict of tensors `<module>.lora_{A,B}.<adapter>.weight` and
`conv_in.base_layer.*`, which replaces the base's own. Alpha is peft's default 8, not stored.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import set_peft_model_state_dict
from torch import nn

from gdpo_sr.lora import PEFT_DEFAULT_ALPHA, add_lora

Tensors = dict[str, torch.Tensor]


def read_checkpoint(path: Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)


def lora_update(a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """scale * B A as a change of the weight: A (r, in[, k, k]), B (out, r[, 1, 1])."""
    return scale * torch.einsum("or,r...->o...", b.flatten(1), a)


@torch.no_grad()
def merge(module: nn.Module, tensors: Tensors, rank: int, adapters: tuple[str, ...]) -> None:
    """Add the named adapters to the weights of `module` and take over its base layers."""
    for key, tensor in tensors.items():
        if ".base_layer." in key:
            module.get_parameter(key.replace(".base_layer", "")).copy_(tensor)
    for key, a in tensors.items():
        name, found, adapter = key.partition(".lora_A.")
        if found and adapter.removesuffix(".weight") in adapters:
            b = tensors[key.replace(".lora_A.", ".lora_B.")]
            update = lora_update(a, b, PEFT_DEFAULT_ALPHA / rank)
            module.get_parameter(f"{name}.weight").add_(update)


UNET_ADAPTERS = ("default_encoder", "default_decoder", "default_others")


def merge_unet(unet: nn.Module, path: Path) -> None:
    """All three UNet adapters of a stage-1 or stage-2 checkpoint."""
    state = read_checkpoint(path)
    merge(unet, state["state_dict_unet"], state["rank_unet"], UNET_ADAPTERS)


def merge_vae(vae: nn.Module, path: Path) -> None:
    """The encoder adapter of a stage-1 checkpoint; the decoder's is stored but inactive."""
    state = read_checkpoint(path)
    merge(vae, state["state_dict_vae"], state["rank_vae"], ("default_encoder",))


def load_as_one_adapter(unet: nn.Module, path: Path) -> dict[str, nn.Parameter]:
    """Put the three adapters, which do not overlap, into one. Parameters by released name."""
    state = read_checkpoint(path)
    add_lora(unet, state["rank_unet"])
    released = {key: t for key, t in state["state_dict_unet"].items() if ".lora_" in key}
    set_peft_model_state_dict(unet, {own_name(key): t for key, t in released.items()})
    parameters = dict(unet.named_parameters())
    return {
        key: parameters[own_name(key).replace(".weight", ".default.weight")] for key in released
    }


def own_name(key: str) -> str:
    """`conv_in.lora_A.default_encoder.weight` -> `conv_in.lora_A.weight`."""
    for adapter in UNET_ADAPTERS:
        key = key.replace(f".{adapter}.", ".")
    return key


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
