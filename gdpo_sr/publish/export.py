"""A trained model for others, with a model card: a LoRA that diffusers and PEFT load by themselves,
or a complete model.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from gdpo_sr.checkpoints.adapter_config import CONFIG_FILE
from gdpo_sr.checkpoints.load_adapter import merged_generator
from gdpo_sr.checkpoints.lora import (
    DIFFUSERS_FILE,
    WEIGHTS_FILE,
    Adapter,
    find_adapter,
    is_stage1,
    read_peft,
)
from gdpo_sr.checkpoints.meaning import Meaning, base_of, read_meaning, run_meaning
from gdpo_sr.checkpoints.model_folder import components_of, write_model
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.publish.model_card import RunFacts, model_card, read_run
from gdpo_sr.types import CheckpointError, OptionError
from gdpo_sr.writer import new_folder, write_file

NEWEST = ("lora_latest", "latest")
"""Names, under `models/`, of what the last validation is about."""


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        model: an adapter folder, or a complete model of a run that trained every weight.
        complete: which of the two it is.
        run: folder of the run that it is from; None where it is unknown.
    """

    model: Path
    complete: bool
    run: Path | None


def find_source(folder: Path) -> Source:
    """What `folder`, a run or a LoRA folder, holds.

    Raises:
        CheckpointError: nothing.
    """
    whole = folder / "models" / "latest"
    complete = (whole / "model_index.json").is_file()
    model = whole if complete else find_adapter(folder)
    above = [folder, *model.resolve().parents[:2]]
    run = next((f for f in above if (f / "options.yml").is_file()), None)
    return Source(model, complete, run)


def run_facts(source: Source) -> RunFacts:
    """Of the run; figures only where they were measured on this model."""
    if source.run is None:
        return RunFacts()
    facts = read_run(source.run)
    return facts if source.model.name in NEWEST else RunFacts(facts.options)


def diffusers_tensors(adapter: Adapter, source: str | Path) -> dict[str, torch.Tensor]:
    """LoRA tensors of a UNet as diffusers names them; B is scaled, for it takes alpha to be r.

    Raises:
        CheckpointError: an adapter with per-module ranks or alphas.
    """
    config = adapter.config
    for name in ("rank_pattern", "alpha_pattern"):
        if getattr(config, name):
            raise CheckpointError(
                f"LoRA '{source}': {name} in {CONFIG_FILE} has no place in diffusers' format: use "
                "--format merged"
            )
    divisor = math.sqrt(config.r) if config.use_rslora else config.r
    scale = config.lora_alpha / divisor
    return {
        f"unet.{key}": value * scale if ".lora_B." in key else value
        for key, value in adapter.tensors.items()
    }


def meaning_of(source: Source) -> Meaning:
    """What the model says of itself, or its run."""
    if not source.complete:
        return read_meaning(source.model)
    return Meaning() if source.run is None else run_meaning(source.run / "options.yml")


def write_lora(source: Source, folder: Path, meaning: Meaning) -> None:
    """PEFT's two files, as they are, diffusers' one, and what the LoRA means.

    Raises:
        CheckpointError: there is no LoRA, or it changes more than the UNet.
    """
    if source.complete or is_stage1(source.model):
        what = "trained every weight" if source.complete else "is of stage 1 and changes the VAE"
        raise CheckpointError(f"'{source.model}' {what}, which no LoRA file holds: --format merged")
    if source.model.is_file():
        raise CheckpointError(
            f"'{source.model}' is a LoRA in other keys than PEFT's already: use it as it is, or "
            "--format merged"
        )
    tensors = diffusers_tensors(read_peft(source.model), source.model)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(source.model / name, folder / name)
    write_file(folder / DIFFUSERS_FILE, save(tensors, metadata={"format": "pt"}))
    meaning.without_folders().write(folder)


def merged_source(source: Source, meaning: Meaning) -> NoiseAwareGenerator:
    """The complete model, in float32, with the run's timesteps and prompt."""
    if source.complete:
        return build_generator(load_components(source.model))
    if meaning.base is None:
        raise OptionError(f"'{source.model}' is from no known run: name its base with --base")
    return merged_generator(source.model, base_of(meaning, {}))


def export(
    source: Source,
    folder: Path,
    merged: bool,
    meaning: Meaning,
    title: str | None = None,
    licence: str | None = None,
) -> None:
    """Write what a run trained, with a model card, into `folder`.

    Args:
        merged: a complete model, else a LoRA.
        meaning: of the model; its base is that of the training or what the user named.
        title: of the card; None: the run's name, or the folder's.
        licence: for the card.
    """
    facts = run_facts(source)
    network = merged_source(source, meaning) if merged else None
    with new_folder(folder) as temporary:
        if network is None:
            write_lora(source, temporary, meaning)
        else:
            write_model(components_of(network), temporary)
        name = title or facts.options.get("name") or folder.name
        card = model_card(facts, name.split("/")[-1], merged, meaning, licence)
        write_file(temporary / "README.md", card)
