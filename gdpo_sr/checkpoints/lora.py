"""LoRA adapters of one network: add, switch, save and load in PEFT's format, merge."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from gdpo_sr.checkpoints.adapter_config import CONFIG_FILE, read_config
from gdpo_sr.checkpoints.lean_lora import make_lean
from gdpo_sr.checkpoints.lora_fit import check_fit
from gdpo_sr.checkpoints.lora_keys import read_lora_file
from gdpo_sr.checkpoints.meaning import STAGE1_FILE, Meaning, read_meaning
from gdpo_sr.generators.families import network_family
from gdpo_sr.generators.remembered import forget, modules_of
from gdpo_sr.types import CheckpointError, OptionError
from gdpo_sr.writer import new_folder, write_file

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

WEIGHTS_FILE = "adapter_model.safetensors"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""What diffusers looks for first in a folder."""
CONV_IN_FILE, VAE_FOLDER = "conv_in.safetensors", "vae"
"""What an adapter of stage 1 has besides; see `gdpo_sr.checkpoints.generator_adapters`."""
_PREFIX = "base_model.model."
PEFT_DEFAULT_ALPHA = 8
"""The released checkpoints leave alpha at peft's default, so that rank 4 is scaled by 2."""


class Adapter(NamedTuple):
    """A LoRA apart from its network.

    Attributes:
        config: rank, alpha and targets.
        tensors: `<module>.lora_A.weight` (r, in[, k, k]) and `<module>.lora_B.weight`
            (out, r[, 1, 1]).
    """

    config: LoraConfig
    tensors: dict[str, torch.Tensor]


def add_lora(
    unet: nn.Module,
    rank: int = 4,
    alpha: int | None = None,
    dropout: float = 0.0,
    name: str = "default",
    targets: str | None = None,
) -> list[nn.Parameter]:
    """Add a trainable adapter and make it the active one; it starts as the identity (B = 0).

    `targets` is matched against whole module names; None: those of the network's family. Returns
    the adapter's parameters.
    """
    targets = network_family(unet).lora_targets if targets is None else targets
    _add_adapter(unet, lora_config(rank, alpha, dropout, targets), name)
    return lora_parameters(unet, name)


def lora_config(
    rank: int, alpha: int | None, dropout: float, targets: str | list[str]
) -> LoraConfig:
    """PEFT's config of an adapter as this package makes them."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=PEFT_DEFAULT_ALPHA if alpha is None else alpha,
        lora_dropout=dropout,
        init_lora_weights="gaussian",
        target_modules=targets,
    )


def _add_adapter(unet: nn.Module, config: LoraConfig, name: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # a second one is meant
        unet.add_adapter(config, adapter_name=name)
    forget(unet)
    make_lean(adapter_layers(unet))


def lora_parameters(unet: nn.Module, name: str | None = None) -> list[nn.Parameter]:
    """LoRA parameters of the adapter `name`, or of all, in the order of the module tree."""
    wanted = "." if name is None else f".{name}."
    named = unet.named_parameters()
    return [p for key, p in named if wanted in key.partition(".lora_")[2]]


def adapter_layers(unet: nn.Module) -> list[BaseTunerLayer]:
    """Layers that carry adapters."""
    if not getattr(unet, "peft_config", None):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return modules_of(unet, BaseTunerLayer)


@contextmanager
def adapters_disabled(unet: nn.Module) -> Iterator[None]:
    """Inside, `unet` computes what it did before LoRA was added: the reference policy.

    What is trainable stays so: a layer that is off does not use its adapters.
    """
    layers = adapter_layers(unet)
    before = [layer.disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, off in zip(layers, before, strict=True):
            layer._disable_adapters = off


def weigh_adapters(network: nn.Module, weights: Mapping[str, float]) -> None:
    """Make the adapters in `weights` the active ones, each as strong as said; nothing is
    trainable afterwards. Layers that have none of them compute what the base does.
    """
    for layer in adapter_layers(network):
        names = [name for name in weights if name in layer.scaling]
        layer.set_adapter(names)
        layer._disable_adapters = not names
        for name in names:
            layer.set_scale(name, weights[name])
    for parameter in lora_parameters(network):
        parameter.requires_grad_(False)


@contextmanager
def adapter_active(unet: nn.Module, name: str) -> Iterator[None]:
    """Inside, `unet` computes with the adapter `name` alone; what is trainable stays so."""
    layers = adapter_layers(unet)
    before = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = [name]
    try:
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer._active_adapter = active


def adapter_of(unet: nn.Module, name: str = "default") -> Adapter:
    """Config and tensors, on the CPU, of an adapter of `unet`."""
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(unet, adapter_name=name)
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    return Adapter(unet.peft_config[name], tensors)


def save_lora(unet: nn.Module, folder: str | Path, meaning: Meaning | None = None) -> Path:
    """Write the adapter `default` of `unet` in PEFT's two files, and what it means in a third."""
    return write_adapter(adapter_of(unet), folder, meaning)


def write_adapter(adapter: Adapter, folder: str | Path, meaning: Meaning | None = None) -> Path:
    """`save_lora` of an adapter that is on no network."""
    with new_folder(folder) as temporary:
        tensors = {_PREFIX + key: value for key, value in adapter.tensors.items()}
        write_file(temporary / WEIGHTS_FILE, save(tensors, metadata={"format": "pt"}))
        adapter.config.save_pretrained(temporary)
        if meaning is not None:
            meaning.write(temporary)
    return Path(folder)


def find_adapter(place: str | Path) -> Path:
    """The adapter meant by `place`: a folder in PEFT's format, itself or the latest of a training
    run; or a .safetensors file in diffusers' or kohya's keys, itself or diffusers' one in a folder.

    Raises:
        CheckpointError: there is none.
    """
    if not place or not isinstance(place, (str, Path)):
        raise CheckpointError(f"lora = {place!r}: name a run folder or an adapter folder")
    place = Path(place)
    for folder in (place, place / "models" / "lora_latest", place / "lora_latest"):
        if all(os.path.isfile(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)):
            return folder
    for file in (place, place / DIFFUSERS_FILE):
        if os.path.isfile(file) and file.suffix == ".safetensors":
            return file
    raise CheckpointError(
        f"'{place}' holds no LoRA ({CONFIG_FILE} and {WEIGHTS_FILE}): give a run folder such as "
        "experiments/NAME, a folder written by save_lora, a .safetensors file in diffusers' or "
        "kohya's keys, or what gdpo-sr convert makes of a .pkl or .pth"
    )


def load_lora(unet: nn.Module, folder: str | Path, trainable: bool = False) -> list[nn.Parameter]:
    """Add the adapter in `folder` (or of the run in `folder`) to `unet`. Returns its parameters.

    Raises:
        CheckpointError: no adapter there, one that does not fit this UNet, or one of stage 1, which
            changes more than the UNet.
    """
    adapter = find_adapter(folder)
    if is_stage1(adapter):
        raise CheckpointError(
            f"'{adapter}' is a LoRA of stage 1, which changes the VAE too: merge it (gdpo-sr merge "
            f"--base BASE --lora {adapter} -o FOLDER) and use FOLDER as the base"
        )
    return attach_lora(unet, read_adapter(adapter, unet), adapter, trainable=trainable)


def is_stage1(adapter: Path) -> bool:
    """Whether an adapter folder holds more than a LoRA of the UNet."""
    marks = (STAGE1_FILE, CONV_IN_FILE, VAE_FOLDER)
    return (
        any((adapter / mark).exists() for mark in marks) or "vae" in read_meaning(adapter).changes
    )


def attach_lora(
    unet: nn.Module,
    adapter: Adapter,
    source: str | Path,
    name: str = "default",
    trainable: bool = False,
    scale: float = 1.0,
) -> list[nn.Parameter]:
    """Add an adapter to the network that it was trained on.

    Args:
        source: where it is from, for messages.
        scale: of what it adds to the base: 1 as trained, 0 nothing.

    Returns:
        its parameters.

    Raises:
        CheckpointError: it does not fit this network.
        OptionError: `scale` is no number.
    """
    if not math.isfinite(scale):
        raise OptionError(f"lora_scale = {scale}: use a number; 1 is the LoRA as trained, 0 none")
    from peft import set_peft_model_state_dict

    config, tensors = adapter
    check_fit(unet, config, tensors, source)
    _add_adapter(unet, config, name)
    scaled = {key: v * scale if ".lora_B." in key else v for key, v in tensors.items()}
    set_peft_model_state_dict(unet, scaled, adapter_name=name)
    parameters = lora_parameters(unet, name)
    for parameter in parameters:
        parameter.requires_grad_(trainable)
    return parameters


def read_adapter(adapter: Path, network: nn.Module) -> Adapter:
    """Config and tensors of what `find_adapter` found, for a network of its kind.

    Raises:
        CheckpointError: a file is damaged, or of another kind of adapter than LoRA.
    """
    return Adapter(*read_lora_file(adapter, network)) if adapter.is_file() else read_peft(adapter)


def read_peft(adapter: Path) -> Adapter:
    """`read_adapter` of a folder in PEFT's format."""
    config = read_config(adapter / CONFIG_FILE)
    try:
        weights = load_file(adapter / WEIGHTS_FILE)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"LoRA '{adapter}' cannot be read ({str(error).strip().splitlines()[0]}): "
            "it is damaged, copy or train it again"
        ) from error
    return Adapter(config, {key.removeprefix(_PREFIX): value for key, value in weights.items()})


def merge_lora(unet: nn.Module) -> nn.Module:
    """Add the active adapters to the base weights and remove the LoRA layers; same function.

    Also for a VAE with adapters.
    """
    unet.fuse_lora()
    return unload_lora(unet)


def unload_lora(network: nn.Module) -> nn.Module:
    """Remove all adapters; what was fused into the weights stays there."""
    network.unload_lora()
    forget(network)
    return network
