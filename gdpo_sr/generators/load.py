"""Load the parts of a base model: the embedded `mini`, a folder in diffusers layout, or a hub id that the user names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.generators.patch_autoencoder import PatchAutoencoder
from gdpo_sr.generators.prompts import PromptEncoder
from gdpo_sr.schedulers.one_step import OneStepScheduler
from gdpo_sr.types import CheckpointError

EMBEDDED = {"mini": Path(__file__).parent.parent / "assets" / "mini"}
_AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "PatchAutoencoder": PatchAutoencoder}
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def base_folder(base: str | Path, revision: str | None = None) -> Path:
    """Folder of a base model; a hub id is fetched into the hub's cache.

    Raises:
        CheckpointError: the folder is incomplete, or the id is unknown or cannot be reached.
    """
    folder = EMBEDDED.get(str(base), Path(base))
    if folder.is_dir():
        _require_parts(folder)
        return folder
    return _fetch(str(base), revision)


def _require_parts(folder: Path) -> None:
    missing = [part for part in _PARTS if not (folder / part).is_dir()]
    if missing:
        raise CheckpointError(
            f"network_g.base '{folder}' lacks the folders {', '.join(missing)}: "
            "give a model saved in diffusers layout"
        )


def _fetch(hub_id: str, revision: str | None) -> Path:
    looks_like_path = hub_id.count("/") != 1 or hub_id.startswith((".", "/", "~"))
    if looks_like_path:
        raise CheckpointError(
            f"network_g.base '{hub_id}' is no folder and no hub id: use 'mini', an existing folder or 'owner/name'"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [f"{part}/*" for part in _PARTS] + ["model_index.json"]
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"network_g.base '{hub_id}' is not on this disk and could not be fetched ({type(error).__name__}): "
            "check the id and the connection, or use 'mini' or a local folder"
        ) from error


def load_vae(folder: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The autoencoder of a base, by the class name in its config."""
    name = json.loads((folder / "vae" / "config.json").read_text())["_class_name"]
    if name not in _AUTOENCODERS:
        raise CheckpointError(
            f"'{folder}/vae' holds a {name}: use one of {', '.join(_AUTOENCODERS)}"
        )
    return _AUTOENCODERS[name].from_pretrained(folder / "vae", torch_dtype=dtype)


def load_components(
    base: str | Path,
    revision: str | None = None,
    t_add: int | None = None,
    t_diff: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Parts of a base as keyword arguments of `OneStepSRPipeline`: unet, vae, text_encoder, tokenizer, scheduler, prompt.

    Raises:
        CheckpointError: a part is missing or its weights do not fit its config.
    """
    folder = base_folder(base, revision)
    try:
        scheduler = OneStepScheduler.from_pretrained(folder / "scheduler")
        parts = {
            "unet": UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype),
            "vae": load_vae(folder, dtype),
            "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype),
            "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        }
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"'{folder}' cannot be loaded ({reason}): give a complete model in diffusers layout"
        ) from error
    scheduler.set_timesteps_pair(t_add, t_diff)
    return {**parts, "scheduler": scheduler, "prompt": _saved_prompt(folder)}


def _saved_prompt(folder: Path) -> str:
    index = folder / "model_index.json"
    return json.loads(index.read_text()).get("prompt", "") if index.is_file() else ""


def build_generator(components: dict[str, Any]) -> NoiseAwareGenerator:
    """The generator over loaded parts, in evaluation mode, nothing trainable."""
    encoder = PromptEncoder(components["text_encoder"], components["tokenizer"])
    generator = NoiseAwareGenerator(
        components["unet"],
        components["vae"],
        encoder,
        components["scheduler"],
        components.get("prompt") or "",
    )
    return generator.requires_grad_(False).eval()
