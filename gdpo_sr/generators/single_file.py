"""A whole model of Stable Diffusion 1 or 2 in one .safetensors file, in the naming of its authors.

The file holds weights alone. Configs and the tokenizer come from a folder in diffusers' layout:
`model/` beside `model.safetensors`, or the file's own folder. They are not guessed: the file does
not say whether the UNet predicts noise or velocity.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from gdpo_sr.types import CheckpointError

SUFFIX = ".safetensors"
_UNET, _VAE, _TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
_SDXL = "conditioner.embedders."


def is_single_file(place: str | Path) -> bool:
    """Whether `place` is a file; anything but safetensors is refused.

    Raises:
        CheckpointError: it is a file of another kind.
    """
    path = Path(place)
    if os.path.isfile(path) and path.suffix != SUFFIX:
        raise CheckpointError(
            f"base '{path}': a model in one file must be {SUFFIX}, for others can run code: save "
            "it as safetensors, or give a folder in diffusers layout"
        )
    return os.path.isfile(path)


def config_folder(file: Path) -> Path:
    """Folder with configs and tokenizer of the model in `file`.

    Raises:
        CheckpointError: there is none, or the file holds no Stable Diffusion 1 or 2.
    """
    _check_kind(file)
    for folder in (file.with_suffix(""), file.parent):
        if (folder / "unet" / "config.json").is_file():
            return folder
    raise CheckpointError(
        f"base '{file}' holds weights alone: put the configs and tokenizer of its kind (the .json "
        f"and .txt files of the model in diffusers layout) into '{file.with_suffix('')}'"
    )


def _check_kind(file: Path) -> None:
    try:
        with safe_open(file, "pt") as opened:
            names = list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"base '{file}' cannot be read ({error}): copy it again") from error
    if any(name.startswith(_SDXL) for name in names):
        raise CheckpointError(
            f"base '{file}' holds '{_SDXL}*': SDXL is not supported, use a base of Stable "
            "Diffusion 1 or 2"
        )
    for prefix in (_UNET, _VAE, _TEXT):
        if not any(name.startswith(prefix) for name in names):
            raise CheckpointError(
                f"base '{file}' lacks '{prefix}*': give the file of a whole Stable Diffusion 1 or "
                "2, or a folder in diffusers layout"
            )


def load_network(
    cls: Any, file: Path, configs: Path, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """UNet or autoencoder of the model in `file`; `configs` is the folder of its config.

    Raises:
        CheckpointError: a weight is missing.
    """
    network = cls.from_single_file(
        str(file), config=str(configs), torch_dtype=dtype, local_files_only=True
    )
    return _complete(network, file)


def load_text_encoder(file: Path, configs: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """CLIP text encoder of the model in `file`; `configs` is the folder of the model's configs.

    Raises:
        CheckpointError: a weight is missing.
    """
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
    from transformers import CLIPTextModel

    network = create_diffusers_clip_model_from_ldm(
        CLIPTextModel,
        checkpoint=load_file(file),
        subfolder="text_encoder",
        config=str(configs),
        torch_dtype=dtype,
        local_files_only=True,
    )
    return _complete(network, file)


def _complete(network: nn.Module, file: Path) -> nn.Module:
    """The libraries leave a missing weight without values."""
    for name, tensor in network.named_parameters():
        if tensor.is_meta:
            raise CheckpointError(
                f"base '{file}' lacks weights of its {type(network).__name__}, such as '{name}': "
                "copy the file again"
            )
    return network
