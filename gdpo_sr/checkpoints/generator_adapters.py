"""What stage 1 trains on a base: LoRA on UNet and VAE encoder, and the UNet's `conv_in` in full.

On disk this is a LoRA folder of the UNet in PEFT's format with three additions:
`conv_in.safetensors` (weight and bias that replace the base's), `vae/` (a LoRA in the same format)
and, in `gdpo_sr.json`, what it changes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from gdpo_sr.checkpoints.lora import (
    CONV_IN_FILE,
    VAE_FOLDER,
    Adapter,
    adapter_of,
    adapters_disabled,
    add_lora,
    attach_lora,
    find_adapter,
    is_stage1,
    lora_parameters,
    read_adapter,
    write_adapter,
)
from gdpo_sr.checkpoints.meaning import Meaning
from gdpo_sr.generators.families import autoencoder_family, network_family
from gdpo_sr.types import CheckpointError
from gdpo_sr.writer import new_folder, write_file


class GeneratorAdapters:
    """Adapters on a UNet and a VAE, made by `add` or `load`.

    Attributes:
        unet, vae: the networks, frozen but for what is added.
        name: of the adapters.
        original_conv_in: frozen copy of the base's `conv_in`.
    """

    def __init__(self, unet: nn.Module, vae: nn.Module, name: str = "default") -> None:
        self.unet, self.vae, self.name = unet, vae, name
        self._input = network_family(unet).input_layer
        self.original_conv_in = copy.deepcopy(unet.get_submodule(self._input)).requires_grad_(False)
        self._loaded_conv_in: dict[str, torch.Tensor] = {}

    def add(self, rank: int = 4, alpha: int | None = None, dropout: float = 0.0) -> None:
        """New trainable adapters; the networks compute what they did before."""
        add_lora(self.unet, rank, alpha, dropout, self.name)
        targets = autoencoder_family(self.vae).lora_targets
        add_lora(self.vae, rank, alpha, dropout, self.name, targets)
        self.conv_in.requires_grad_(True)

    def load(self, folder: str | Path, trainable: bool = False, scale: float = 1.0) -> Path:
        """Adapters saved by `save`, or those of the run in `folder`, as `attach` does.

        Returns:
            their folder.

        Raises:
            CheckpointError: no adapters of stage 1 there, or of another architecture.
        """
        adapter = find_adapter(folder)
        conv_in = _read_conv_in(adapter)
        unet = read_adapter(adapter, self.unet)
        vae = read_adapter(adapter / VAE_FOLDER, self.vae)
        self.attach(unet, vae, conv_in, adapter, scale)
        if trainable:
            for parameter in self.parameters().values():
                parameter.requires_grad_(True)
        return adapter

    def attach(
        self,
        unet: Adapter,
        vae: Adapter,
        conv_in: dict[str, torch.Tensor],
        source: str | Path,
        scale: float = 1.0,
    ) -> None:
        """`load` of adapters that are in memory.

        Args:
            source: where they are from, for messages.
            scale: 1 is the adapters as trained, 0 the base.
        """
        self._check_conv_in(conv_in, source)
        attach_lora(self.unet, unet, source, self.name, scale=scale)
        attach_lora(self.vae, vae, source, self.name, scale=scale)
        self._loaded_conv_in = self._mixed(conv_in, scale)
        self.weigh_input(1.0)
        self.conv_in.requires_grad_(False)

    def weigh_input(self, scale: float) -> None:
        """Put the network's input convolution between the base's, 0, and the loaded one, 1."""
        self.conv_in.load_state_dict(self._mixed(self._loaded_conv_in, scale))

    def _mixed(self, conv_in: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
        own = self.original_conv_in.state_dict()
        return {name: torch.lerp(v, conv_in[name].to(v), scale) for name, v in own.items()}

    def _check_conv_in(self, conv_in: dict[str, torch.Tensor], source: str | Path) -> None:
        for name, own in self.original_conv_in.state_dict().items():
            found = tuple(conv_in[name].shape) if name in conv_in else None
            if found != tuple(own.shape):
                raise CheckpointError(
                    f"'{source}': the {name} of conv_in has shape {found}, the base's "
                    f"{tuple(own.shape)}: use the base it was trained on"
                )
            if not conv_in[name].isfinite().all():
                raise CheckpointError(
                    f"'{source}': the {name} of conv_in holds NaN or infinity: its training "
                    "diverged, or it is damaged"
                )

    @property
    def conv_in(self) -> nn.Module:
        """The network's input convolution without its adapter."""
        layer = self.unet.get_submodule(self._input)
        return getattr(layer, "base_layer", layer)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, each parameter once, by its name in the generator."""
        own = {id(p) for p in lora_parameters(self.unet, self.name)}
        own |= {id(p) for p in lora_parameters(self.vae, self.name)}
        own |= {id(p) for p in self.conv_in.parameters()}
        networks = {"unet": self.unet, "vae": self.vae}
        return {
            f"{part}.{name}": p
            for part, network in networks.items()
            for name, p in network.named_parameters()
            if id(p) in own
        }

    @contextmanager
    def original_input(self) -> Iterator[None]:
        """Inside, the UNet's `conv_in` has the base's weights; a graph made before stays valid."""
        trained, layer = self.conv_in, self.unet.get_submodule(self._input)
        layer.base_layer = self.original_conv_in
        try:
            yield
        finally:
            layer.base_layer = trained

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, both networks compute what the base computes."""
        with self.original_input(), adapters_disabled(self.unet), adapters_disabled(self.vae):
            yield

    def save(self, folder: str | Path, meaning: Meaning) -> Path:
        """Write the folder described at the head of this module."""
        adapters = (adapter_of(network, self.name) for network in (self.unet, self.vae))
        return write_stage1(folder, *adapters, self.conv_in.state_dict(), meaning)


def write_stage1(
    folder: str | Path,
    unet: Adapter,
    vae: Adapter,
    conv_in: dict[str, torch.Tensor],
    meaning: Meaning,
) -> Path:
    """A stage-1 folder out of its parts; it appears when it is complete."""
    with new_folder(folder) as temporary:
        write_adapter(unet, temporary, replace(meaning, changes=("unet", "vae", "conv_in")))
        write_adapter(vae, temporary / VAE_FOLDER)
        tensors = {name: value.detach().cpu().contiguous() for name, value in conv_in.items()}
        write_file(temporary / CONV_IN_FILE, save(tensors, metadata={"format": "pt"}))
    return Path(folder)


def _read_conv_in(adapter: Path) -> dict[str, torch.Tensor]:
    files = (adapter / CONV_IN_FILE, adapter / VAE_FOLDER)
    if not is_stage1(adapter) or not all(file.exists() for file in files):
        raise CheckpointError(
            f"'{adapter}' is no complete LoRA of stage 1 ({CONV_IN_FILE} and {VAE_FOLDER}/ beside "
            "the UNet's): give the folder of a stage-1 run"
        )
    try:
        return load_file(adapter / CONV_IN_FILE)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"'{adapter / CONV_IN_FILE}' cannot be read ({error}): copy or train it again"
        ) from error
