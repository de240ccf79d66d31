"""Load a base model: the embedded `mini`, a folder in diffusers layout, or a hub id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging

from gdpo_sr.generators.lapped_autoencoder import LappedAutoencoder
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.generators.prompts import PromptEncoder
from gdpo_sr.schedulers.one_step import OneStepScheduler
from gdpo_sr.types import CheckpointError

_ASSETS = Path(__file__).parent.parent / "assets"
EMBEDDED = {name: _ASSETS / name for name in ("mini", "mini-diffusion")}
_AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "LappedAutoencoder": LappedAutoencoder}
_PARTS = {
    "unet": ("config.json",),
    "vae": ("config.json",),
    "text_encoder": ("config.json",),
    "tokenizer": ("tokenizer.json", "vocab.json"),
    "scheduler": ("scheduler_config.json",),
}
"""Folders of a base, each with the file that it must hold, or one of several."""
_NOT_FETCHED = ["*.bin", "*.msgpack", "*.fp16.*", "*.non_ema.*"]


def base_folder(base: str | Path, revision: str | None = None) -> Path:
    """Folder of a base model; a hub id is fetched into the hub's cache.

    Raises:
        CheckpointError: the folder is incomplete, or the id is unknown or cannot be reached.
    """
    folder = EMBEDDED.get(str(base), Path(base))
    if not folder.is_dir():
        folder = _fetch(str(base), revision)
    _require_parts(folder)
    return folder


def _require_parts(folder: Path) -> None:
    missing = [
        f"{part}/{' or '.join(files)}"
        for part, files in _PARTS.items()
        if not any((folder / part / file).is_file() for file in files)
    ]
    if missing:
        raise CheckpointError(
            f"base '{folder}' lacks {', '.join(missing)}: give a model saved in diffusers layout"
        )


def _fetch(hub_id: str, revision: str | None) -> Path:
    looks_like_path = hub_id.count("/") != 1 or hub_id.startswith((".", "/", "~"))
    if looks_like_path:
        raise CheckpointError(
            f"base '{hub_id}' is no folder and no hub id: "
            "use 'mini', an existing folder or 'owner/name'"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = [f"{part}/*" for part in _PARTS] + ["model_index.json"]
    try:
        folder = snapshot_download(
            hub_id, revision=revision, allow_patterns=wanted, ignore_patterns=_NOT_FETCHED
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            f"base '{hub_id}' is not on this disk and could not be fetched "
            f"({type(error).__name__}): check the id and the connection, "
            "or use 'mini' or a local folder"
        ) from error
    return Path(folder)


def _load_part(cls: Any, folder: Path, **options: Any) -> torch.nn.Module:
    """A network with every weight from its file: the libraries would draw missing ones at random.

    Raises:
        CheckpointError: weights are missing.
    """
    with no_progress_bar():
        network, report = cls.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"'{folder}' lacks {len(missing)} weights of its {cls.__name__}, such as "
            f"'{missing[0]}': save or copy the model again"
        )
    return network


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keep the library's bar, one per text encoder, out of the commands' output."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_vae(folder: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The autoencoder of a base, by the class name in its config."""
    name = json.loads((folder / "vae" / "config.json").read_text()).get("_class_name")
    if name not in _AUTOENCODERS:
        raise CheckpointError(
            f"'{folder}/vae' holds a {name}: use one of {', '.join(_AUTOENCODERS)}"
        )
    return _load_part(_AUTOENCODERS[name], folder / "vae", torch_dtype=dtype)


def load_components(
    base: str | Path,
    revision: str | None = None,
    t_add: int | None = None,
    t_diff: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Parts of a base as keyword arguments of `OneStepSRPipeline`.

    Returns:
        unet, vae, text_encoder, tokenizer, scheduler, prompt.

    Raises:
        CheckpointError: a part is missing or its weights do not fit its config.
        OptionError: a timestep is outside the schedule.
    """
    folder = base_folder(base, revision)
    try:
        scheduler = OneStepScheduler.from_pretrained(folder / "scheduler")
        parts = {
            "unet": _load_part(UNet2DConditionModel, folder / "unet", torch_dtype=dtype),
            "vae": load_vae(folder, dtype),
            "text_encoder": _load_part(CLIPTextModel, folder / "text_encoder", dtype=dtype),
            "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            "prompt": _saved_prompt(folder),
        }
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"'{folder}' cannot be loaded ({reason}): give a complete model in diffusers layout"
        ) from error
    scheduler.set_timesteps_pair(t_add, t_diff)
    return {**parts, "scheduler": scheduler}


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
