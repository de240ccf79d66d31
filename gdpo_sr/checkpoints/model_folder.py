"""A whole model as a folder in diffusers' layout.

A model whose parts are all of diffusers and transformers opens in plain diffusers too, as a
StableDiffusionPipeline; what diffusers does not know (t_add and t_diff in the scheduler's config,
the prompt in model_index.json) it leaves alone, and we read it again.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gdpo_sr.generators.load_part import no_progress_bar
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.writer import new_folder, write_file

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_LIBRARIES = ("diffusers", "transformers")
_PLAIN = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
}


def save_model_folder(components: dict[str, Any], folder: str | Path) -> Path:
    """`write_model` in a folder that appears complete or not at all, in place of what is there."""
    with new_folder(folder) as temporary:
        write_model(components, temporary)
    return Path(folder)


def write_model(components: dict[str, Any], folder: Path) -> None:
    """Write the parts of a model into a folder.

    Args:
        components: unet, vae, text_encoder, tokenizer, scheduler and prompt.
    """
    with no_progress_bar():
        for part in PARTS:
            components[part].save_pretrained(folder / part)
            _forget_origin(folder / part / "config.json")
    plain = all(_library(components[part]) in _LIBRARIES for part in PARTS if part != "scheduler")
    index = {
        "_class_name": "OneStepSRPipeline",
        "_diffusers_version": version("diffusers"),
        "prompt": components["prompt"],
        **{part: [_library(components[part]), _class(components[part])] for part in PARTS},
    }
    if plain:
        index |= _PLAIN
        _rename_scheduler(folder / "scheduler" / "scheduler_config.json")
    write_file(folder / "model_index.json", json.dumps(index, indent=2, ensure_ascii=False) + "\n")


def components_of(network: NoiseAwareGenerator) -> dict[str, Any]:
    """Parts of a network as `write_model` takes them."""
    return {
        "unet": network.unet,
        "vae": network.vae,
        "text_encoder": network.prompt_encoder.whole_text_encoder(),
        "tokenizer": network.prompt_encoder.tokenizer,
        "scheduler": network.scheduler,
        "prompt": network.prompt,
    }


def _class(part: Any) -> str:
    return type(part).__name__


def _library(part: Any) -> str:
    """What model_index.json calls the place of a class: a library, or a module of ours."""
    module = type(part).__module__
    library = module.split(".")[0]
    return library if library in _LIBRARIES else module


def _rename_scheduler(file: Path) -> None:
    """Of the same noise schedule, by the name of diffusers' class."""
    config = json.loads(file.read_bytes()) | {"_class_name": "DDPMScheduler", "clip_sample": False}
    write_file(file, json.dumps(config, indent=2) + "\n")


def _forget_origin(config: Path) -> None:
    """Take out where a part was loaded from: it is a path of this machine, for nobody else."""
    if not config.is_file():
        return
    settings = json.loads(config.read_text(encoding="utf-8"))
    if settings.pop("_name_or_path", None) is not None:
        write_file(config, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
