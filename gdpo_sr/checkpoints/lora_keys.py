"""LoRA files of others, in diffusers' keys or kohya's, as PEFT's config and tensors.

diffusers: `unet.<module>.lora_A.weight`, earlier `unet.<module>.lora.down.weight` and
`unet.<attention>.processor.to_q_lora.down.weight`; alpha is in the file's metadata, else it is the
rank. kohya: `lora_unet_<module with underscores>.lora_down.weight` and `.alpha`, every module with
a rank and an alpha of its own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from gdpo_sr.checkpoints.adapter_config import parse_config
from gdpo_sr.types import CheckpointError

if TYPE_CHECKING:
    from peft import LoraConfig

Tensors = dict[str, torch.Tensor]

_METADATA = "lora_adapter_metadata"  # diffusers' name
_KINDS = {"A": "A", "down": "A", "B": "B", "up": "B"}
_FORMS = tuple(
    re.compile(form)
    for form in (
        r"lora_unet_(?P<flat>[^.]+)\.(lora_(?P<kind>down|up)\.weight|alpha)",
        r"(unet\.)?(?P<stem>.+)\.processor\.(?P<projection>to_(q|k|v|out))_lora"
        r"\.(?P<kind>down|up)\.weight",
        r"(unet\.)?(?P<module>.+)\.lora(_linear_layer)?\.(?P<kind>down|up)\.weight",
        r"(unet\.)?(?P<module>.+)\.lora_(?P<kind>A|B)\.weight",
        r"(unet\.)?(?P<module>.+)\.alpha",
    )
)


class _Key(NamedTuple):
    """Module that a key is of, and A, B or alpha."""

    module: str
    kind: str


def read_lora_file(file: Path, network: nn.Module) -> tuple[LoraConfig, Tensors]:
    """Config and tensors `<module>.lora_{A,B}.weight` of a file for a network of that kind.

    Raises:
        CheckpointError: the file is damaged, or a key is not of a plain LoRA of the network.
    """
    try:
        with safe_open(file, "pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            metadata = (opened.metadata() or {}).get(_METADATA)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"LoRA '{file}' cannot be read ({error}): copy it again") from error
    modules = {name.replace(".", "_"): name for name, _ in network.named_modules()}
    keys = {key: _parse(key, modules, file) for key in tensors}
    found = {
        f"{key.module}.lora_{key.kind}.weight": tensors[name]
        for name, key in keys.items()
        if key.kind != "alpha"
    }
    if not found:
        raise CheckpointError(f"LoRA '{file}' holds no weights: copy or train it again")
    alphas = {
        key.module: _alpha(name, tensors[name], file)
        for name, key in keys.items()
        if key.kind == "alpha"
    }
    if metadata is not None:
        return _config_of_metadata(metadata, file), found
    return _config(found, alphas), found


def _parse(key: str, modules: dict[str, str], file: Path) -> _Key:
    match = next((m for m in (form.fullmatch(key) for form in _FORMS) if m), None)
    if match is None or key.startswith(("text_encoder", "lora_te", "base_model.")):
        raise CheckpointError(
            f"LoRA '{file}': '{key}' is no weight of a plain LoRA of the UNet in diffusers' or "
            "kohya's keys: train one without text encoder, DoRA and other additions"
        )
    parts = match.groupdict()
    kind = _KINDS.get(parts.get("kind") or "", "alpha")
    if "flat" in parts:
        if parts["flat"] not in modules:
            raise CheckpointError(
                f"LoRA '{file}': '{key}' is for a module that this base lacks: use the base that "
                "it was trained on"
            )
        return _Key(modules[parts["flat"]], kind)
    if "projection" in parts:
        projection = parts["projection"].replace("to_out", "to_out.0")
        return _Key(f"{parts['stem']}.{projection}", kind)
    return _Key(parts["module"], kind)


def _alpha(name: str, tensor: torch.Tensor, file: Path) -> float:
    if tensor.numel() != 1 or not 0 <= float(tensor) < 1e6:
        raise CheckpointError(
            f"LoRA '{file}': '{name}' is no number of 0 or more: copy or train it again"
        )
    return float(tensor)


def _config(tensors: Tensors, alphas: dict[str, float]) -> LoraConfig:
    """What most modules have, and the others' own rank and alpha."""
    from peft import LoraConfig

    ranks = {
        key.removesuffix(".lora_A.weight"): len(value)
        for key, value in tensors.items()
        if key.endswith(".lora_A.weight")
    }
    alphas = {module: alphas.get(module, rank) for module, rank in ranks.items()}
    rank, alpha = _usual(ranks.values(), 1), _usual(alphas.values(), 1)
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        rank_pattern={re.escape(m): r for m, r in ranks.items() if r != rank},
        alpha_pattern={re.escape(m): a for m, a in alphas.items() if a != alpha},
        target_modules=sorted({key.partition(".lora_")[0] for key in tensors}),
        init_lora_weights="gaussian",
    )


def _usual(values: Iterable[Any], default: Any) -> Any:
    counted = Counter(values).most_common(1)
    return counted[0][0] if counted else default


def _config_of_metadata(text: str, file: Path) -> LoraConfig:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointError(
            f"LoRA '{file}': metadata {_METADATA} cannot be read ({error}): copy it again"
        ) from error
    values = values if isinstance(values, dict) else {}
    own = {k.removeprefix("unet."): v for k, v in values.items() if k.startswith("unet.")}
    return parse_config(own, file)
