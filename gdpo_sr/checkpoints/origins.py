"""Who trains one-step models on Stable Diffusion 2.1, how theirs run, and the two layouts that are
not GDPO-SR's: HYPIR's and PiSA-SR's. OSEDiff's is in `released_layout`.

None of the three adds noise. OSEDiff (arXiv 2406.08177) tells its UNet t = 999, HYPIR (2507.20590)
t = 200; PiSA-SR (2412.03017) tells it t = 1 and takes its answer from the latent. None of this is
stored in their files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from gdpo_sr.types import CheckpointError

Tensors = dict[str, torch.Tensor]

PARTS = ("encoder", "decoder", "others")
HYPIR_TARGETS = (
    "to_k to_q to_v to_out.0 conv conv1 conv2 conv_shortcut conv_out proj_in proj_out "
    "ff.net.2 ff.net.0.proj"
).split()
"""Ends of the names of the modules that HYPIR adapts; its alpha is its rank."""
_HYPIR_END, _PISA_RANK = ".default.weight", "lora_rank_unet_{}"
_PISA_KINDS = {"pixel": "pix", "semantic": "sem"}
_PEFT_ALPHA = 8  # PiSA-SR leaves it at PEFT's default
_DAMAGED = "the file is damaged or changed, copy it again"


class Origin(NamedTuple):
    """A project, and what its files leave unsaid: None where it is the base's."""

    name: str
    t_add: int | None = None
    t_diff: int | None = None
    prompt: str | None = None
    prediction_type: str | None = None

    def settings(self) -> dict[str, Any]:
        """Timesteps and prompt."""
        return {"t_add": self.t_add, "t_diff": self.t_diff, "prompt": self.prompt}


STAGE1 = Origin("GDPO-SR, stage 1", 250, 100, "clean, high-resolution, 8k")
STAGE2 = Origin("GDPO-SR, stage 2")
OSEDIFF = Origin("OSEDiff", -1, 999, "")
HYPIR = Origin("HYPIR", -1, 200, "")
PISA_SR = Origin("PiSA-SR", -1, 1, "", "residual")


class PlainLora(NamedTuple):
    """Matrices `<module>.lora_{A,B}.weight` of one rank."""

    tensors: Tensors
    rank: int
    alpha: int | None  # None: PEFT's default


def is_hypir(state: Mapping) -> bool:
    """Whether a dict is one of parameters of PEFT's adapter `default` alone."""
    return bool(state) and all(
        isinstance(key, str) and ".lora_" in key and key.endswith(_HYPIR_END) for key in state
    )


def is_pisa_sr(state: Mapping) -> bool:
    """Whether a dict has PiSA-SR's two ranks."""
    return all(_PISA_RANK.format(kind) in state for kind in _PISA_KINDS.values())


def read_hypir(state: Mapping, source: str) -> PlainLora:
    """The LoRA of HYPIR.

    Raises:
        CheckpointError: a value is no tensor, or the ranks differ.
    """
    tensors = {
        key.removesuffix(_HYPIR_END) + ".weight": _tensor(key, value, source)
        for key, value in state.items()
    }
    ranks = {len(value) for key, value in tensors.items() if ".lora_A." in key}
    if len(ranks) != 1:
        raise CheckpointError(f"'{source}' holds LoRAs of ranks {sorted(ranks)}: {_DAMAGED}")
    [rank] = ranks
    return PlainLora(tensors, rank, rank)


def read_pisa_sr(state: Mapping, source: str) -> dict[str, PlainLora]:
    """PiSA-SR's two LoRAs, by the names pixel and semantic.

    Raises:
        CheckpointError: a key is missing, of another kind, or unknown.
    """
    tensors = state.get("state_dict_unet")
    if not isinstance(tensors, Mapping):
        raise CheckpointError(f"'{source}' lacks 'state_dict_unet' (dict): {_DAMAGED}")
    found = {name: _pisa_kind(state, tensors, kind, source) for name, kind in _PISA_KINDS.items()}
    used = sum(len(lora.tensors) for lora in found.values())
    if used != len(tensors):
        raise CheckpointError(
            f"'{source}' holds {len(tensors)} tensors, {used} of them of listed modules: {_DAMAGED}"
        )
    return found


def _pisa_kind(state: Mapping, tensors: Mapping, kind: str, source: str) -> PlainLora:
    rank = state[_PISA_RANK.format(kind)]
    if not isinstance(rank, int) or rank < 1:
        raise CheckpointError(f"'{source}': {_PISA_RANK.format(kind)} is no rank: {_DAMAGED}")
    found: Tensors = {}
    for part in PARTS:
        modules = state.get(f"unet_lora_{part}_modules_{kind}")
        if not isinstance(modules, list):
            name = f"unet_lora_{part}_modules_{kind}"
            raise CheckpointError(f"'{source}' lacks '{name}' (list): {_DAMAGED}")
        for module in modules:
            for side in "AB":
                key = f"{module}.lora_{side}.default_{part}_{kind}.weight"
                found[f"{module}.lora_{side}.weight"] = _tensor(key, tensors.get(key), source)
    return PlainLora(found, rank, _PEFT_ALPHA)


def _tensor(key: str, value: object, source: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise CheckpointError(
            f"'{source}': '{key}' is a {type(value).__name__}, expected a tensor: {_DAMAGED}"
        )
    return value


def _scale(lora: PlainLora) -> float:
    return (lora.alpha or _PEFT_ALPHA) / lora.rank


def added(first: PlainLora, second: PlainLora) -> PlainLora:
    """One LoRA that does what two on the same modules do together."""
    rank = first.rank + second.rank
    tensors: Tensors = {}
    for key, value in first.tensors.items():
        other = second.tensors[key]
        if ".lora_A." in key:
            tensors[key] = torch.cat([value, other])
        else:
            tensors[key] = torch.cat([value * _scale(first), other * _scale(second)], 1)
    return PlainLora(tensors, rank, rank)
