"""Whether a LoRA fits a network: found out before anything is changed, and told by the key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from gdpo_sr.checkpoints.adapter_config import CONFIG_FILE, check_patterns
from gdpo_sr.types import CheckpointError

if TYPE_CHECKING:
    from peft import LoraConfig

_THAT_BASE = "use the base that it was trained on"


def check_fit(
    network: nn.Module, config: LoraConfig, tensors: Mapping[str, torch.Tensor], source: str | Path
) -> None:
    """Compare config, tensors and network with each other.

    Args:
        tensors: `<module>.lora_A.weight` and `<module>.lora_B.weight`.
        source: where the adapter is from, for messages.

    Raises:
        CheckpointError: they do not belong together, or a value is not finite.
    """
    from peft.tuners.tuners_utils import check_target_module_exists

    modules = dict(network.named_modules())
    check_patterns(config, modules, source)
    saved = _module_names(tensors, source)
    targets = {name for name in modules if check_target_module_exists(config, name)}
    for name in [name for name in modules if name in targets - saved]:
        raise CheckpointError(
            f"LoRA '{source}' has no weights for module '{name}' of this base: {_THAT_BASE}"
        )
    for key, tensor in tensors.items():
        _check_tensor(key, tensor, modules, source)
        name = key.partition(".lora_")[0]
        if name not in targets:
            raise CheckpointError(
                f"LoRA '{source}' has weights for '{name}', which target_modules in {CONFIG_FILE} "
                "leaves out: the two files are of different adapters, copy both from one"
            )
        _check_rank(config, key, tensor, source)


def _module_names(tensors: Mapping[str, torch.Tensor], source: str | Path) -> set[str]:
    """Modules that have both matrices; nothing else is there."""
    if not tensors:
        raise CheckpointError(f"LoRA '{source}' holds no weights: copy or train it again")
    names = {key.partition(".lora_")[0] for key in tensors}
    wanted = {f"{name}.lora_{kind}.weight" for name in names for kind in "AB"}
    for key in sorted(set(tensors) - wanted):
        raise CheckpointError(
            f"LoRA '{source}': '{key}' is no weight of a plain LoRA (<module>.lora_A.weight or "
            "lora_B.weight): train one without DoRA, bias and other additions"
        )
    for key in sorted(wanted - set(tensors)):
        raise CheckpointError(f"LoRA '{source}' lacks '{key}': it is damaged, copy it again")
    return names


def _check_tensor(
    key: str, tensor: torch.Tensor, modules: Mapping[str, nn.Module], source: str | Path
) -> None:
    name, _, kind = key.partition(".lora_")
    weight = getattr(modules.get(name), "weight", None)
    if weight is None:
        raise CheckpointError(
            f"LoRA '{source}' is for module '{name}', which this base lacks: {_THAT_BASE}"
        )
    part = slice(1, None) if kind.startswith("A") else slice(0, 1)
    if tensor.ndim != weight.ndim or tensor.shape[part] != weight.shape[part]:
        raise CheckpointError(
            f"LoRA '{source}': {key} has shape {tuple(tensor.shape)}, the base's weight "
            f"{tuple(weight.shape)}: {_THAT_BASE}"
        )
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"LoRA '{source}': {key} is of {tensor.dtype}, expected floating point: save it "
            "without quantisation"
        )
    if not tensor.isfinite().all():
        raise CheckpointError(
            f"LoRA '{source}': {key} holds NaN or infinity: its training diverged, or it is damaged"
        )


def _check_rank(config: LoraConfig, key: str, tensor: torch.Tensor, source: str | Path) -> None:
    """The config's rank is the tensor's: torch would only say that sizes do not match."""
    from peft.utils.other import get_pattern_key

    module_name, _, kind = key.partition(".lora_")
    pattern = get_pattern_key(config.rank_pattern.keys(), module_name)
    expected = config.rank_pattern.get(pattern, config.r)
    rank = tensor.shape[0 if kind.startswith("A") else 1]
    if rank != expected:
        raise CheckpointError(
            f"LoRA '{source}': {key} has rank {rank}, {CONFIG_FILE} says {expected}: "
            "the two files are of different adapters, copy both from one"
        )
