"""LoRA adapters on the UNet: add, switch off, save and load in PEFT's format, merge."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from gdpo_sr.types import CheckpointError

UNET_TARGETS = (
    r"(.*\.)?(conv_in|conv_out|conv1|conv2|conv|conv_shortcut|proj_in|proj_out"
    r"|to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2)"
)
"""Attention q, k, v, out, convolutions, proj_in/out and feed-forward, as in the released code.

The time embedding is left out.
"""

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
_PREFIX = "base_model.model."
PEFT_DEFAULT_ALPHA = 8
"""The released checkpoints leave alpha at peft's default, so that rank 4 is scaled by 2."""


def add_lora(
    unet: nn.Module,
    rank: int = 4,
    alpha: int | None = None,
    dropout: float = 0.0,
    name: str = "default",
) -> list[nn.Parameter]:
    """Add a trainable adapter; it starts as the identity (B = 0). Returns its parameters."""
    config = LoraConfig(
        r=rank,
        lora_alpha=PEFT_DEFAULT_ALPHA if alpha is None else alpha,
        lora_dropout=dropout,
        init_lora_weights="gaussian",
        target_modules=UNET_TARGETS,
    )
    unet.add_adapter(config, adapter_name=name)
    return lora_parameters(unet)


def lora_parameters(unet: nn.Module) -> list[nn.Parameter]:
    """Every LoRA parameter, in the order of the module tree."""
    return [p for key, p in unet.named_parameters() if ".lora_" in key]


@contextmanager
def adapters_disabled(unet: nn.Module) -> Iterator[None]:
    """Inside, `unet` computes what it did before LoRA was added: the reference policy."""
    layers = [m for m in unet.modules() if isinstance(m, BaseTunerLayer)]
    if not layers:
        yield
        return
    trainable = [p.requires_grad for p in lora_parameters(unet)]
    unet.disable_adapters()
    try:
        yield
    finally:
        unet.enable_adapters()
        for parameter, flag in zip(lora_parameters(unet), trainable, strict=True):
            parameter.requires_grad_(flag)


def save_lora(unet: nn.Module, folder: str | Path, name: str = "default") -> Path:
    """Write adapter_config.json and adapter_model.safetensors; `folder` appears when complete."""
    folder = Path(folder)
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = get_peft_model_state_dict(unet, adapter_name=name)
    tensors = {_PREFIX + key: value.detach().cpu().contiguous() for key, value in weights.items()}
    save_file(tensors, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
    unet.peft_config[name].save_pretrained(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)
    return folder


def find_adapter(folder: str | Path) -> Path:
    """The adapter folder meant by `folder`: itself, or the latest adapter of a training run.

    Raises:
        CheckpointError: there is none.
    """
    folder = Path(folder)
    for candidate in (folder, folder / "models" / "lora_latest", folder / "lora_latest"):
        if (candidate / CONFIG_FILE).is_file() and (candidate / WEIGHTS_FILE).is_file():
            return candidate
    raise CheckpointError(
        f"'{folder}' holds no LoRA ({CONFIG_FILE} and {WEIGHTS_FILE}): give a run folder such as "
        "experiments/NAME or a folder written by save_lora"
    )


def load_lora(
    unet: nn.Module, folder: str | Path, name: str = "default", trainable: bool = False
) -> list[nn.Parameter]:
    """Add the adapter in `folder` (or of the run in `folder`) to `unet`. Returns its parameters.

    Raises:
        CheckpointError: no adapter there, or one that does not fit this UNet.
    """
    adapter = find_adapter(folder)
    config, tensors = _read_adapter(adapter)
    _check_fit(unet, config, tensors, adapter)
    unet.add_adapter(config, adapter_name=name)
    set_peft_model_state_dict(unet, tensors, adapter_name=name)
    parameters = lora_parameters(unet)
    for parameter in parameters:
        parameter.requires_grad_(trainable)
    return parameters


def _read_adapter(adapter: Path) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """Config and tensors, named as in the UNet."""
    try:
        config = LoraConfig.from_pretrained(str(adapter))
        weights = load_file(adapter / WEIGHTS_FILE)
    except (SafetensorError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"LoRA '{adapter}' cannot be read ({str(error).strip().splitlines()[0]}): "
            "it is damaged, copy or train it again"
        ) from error
    return config, {key.removeprefix(_PREFIX): value for key, value in weights.items()}


def _check_fit(
    unet: nn.Module, config: LoraConfig, tensors: dict[str, torch.Tensor], adapter: Path
) -> None:
    """Compare the adapter with the UNet before anything is changed."""
    modules = dict(unet.named_modules())
    saved = {key.partition(".lora_")[0] for key in tensors}
    lacking = [n for n in modules if check_target_module_exists(config, n) and n not in saved]
    if lacking:
        raise CheckpointError(
            f"LoRA '{adapter}' has no weights for module '{lacking[0]}' of this base: "
            "use the base that it was trained on"
        )
    for key, tensor in tensors.items():
        module_name, _, kind = key.partition(".lora_")
        weight = getattr(modules.get(module_name), "weight", None)
        if weight is None:
            raise CheckpointError(
                f"LoRA '{adapter}' is for module '{module_name}', which this base lacks: "
                "use the base that it was trained on"
            )
        part = slice(1, None) if kind.startswith("A") else slice(0, 1)
        if tensor.shape[part] != weight.shape[part]:
            raise CheckpointError(
                f"LoRA '{adapter}': {key} has shape {tuple(tensor.shape)}, the base's weight "
                f"{tuple(weight.shape)}: use the base that it was trained on"
            )


def merge_lora(unet: nn.Module) -> nn.Module:
    """Add the active adapters to the base weights and remove the LoRA layers; same function."""
    unet.fuse_lora()
    unet.unload_lora()
    return unet
