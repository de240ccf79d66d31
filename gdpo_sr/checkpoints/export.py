"""`gdpo-sr export RUN -o FOLDER`: a trained model for others: a LoRA that diffusers and PEFT load
by themselves, or a complete model, each with a model card, and on wish on the Hugging Face hub.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from gdpo_sr.checkpoints.hub import check_hub_access, push_folder
from gdpo_sr.checkpoints.lora import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Adapter,
    find_adapter,
    is_stage1,
    read_adapter,
)
from gdpo_sr.checkpoints.merge import merge_adapters
from gdpo_sr.checkpoints.model_card import RunFacts, model_card, read_run
from gdpo_sr.checkpoints.model_folder import save_model_folder
from gdpo_sr.config.network_options import NetworkOptions
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.types import CheckpointError, OptionError
from gdpo_sr.writer import new_folder, refuse_existing, write_file

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""What diffusers looks for first in a folder."""
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


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line of `gdpo-sr export`."""
    parser = argparse.ArgumentParser(
        prog="gdpo-sr export", description="Write a trained model for others.", allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="run folder (experiments/NAME) or LoRA folder")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--format",
        choices=("lora", "merged"),
        default="lora",
        help="lora (default): for diffusers, PEFT and gdpo_sr; merged: a complete model",
    )
    parser.add_argument(
        "--base", help="what the LoRA was trained on; default: as the run's options say"
    )
    parser.add_argument("--revision", help="commit or tag of --base")
    parser.add_argument(
        "--license", metavar="ID", help="licence in the model card, such as apache-2.0"
    )
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="upload the folder there")
    return parser.parse_args(argv)


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


def network_options(
    source: Source, facts: RunFacts, base: str | None, revision: str | None
) -> NetworkOptions | None:
    """The base as the run used it, or `base` in its place; None where neither is known."""
    values = dict(facts.options.get("network_g", {}))
    if base is not None:
        values |= {"base": base, "revision": revision, "unet": None, "vae": None}
    if not values:
        return None
    try:
        return NetworkOptions.model_validate(values)
    except ValidationError as error:
        raise OptionError(
            f"'{source.run}/options.yml': network_g is not of this version: name the base with "
            "--base"
        ) from error


def diffusers_tensors(adapter: Adapter, source: str | Path) -> dict[str, torch.Tensor]:
    """LoRA tensors of a UNet as diffusers names them; B is scaled, for it takes alpha to be r.

    Raises:
        CheckpointError: an adapter with per-module ranks or alphas, or of another kind than LoRA.
    """
    config = adapter.config
    for name in ("rank_pattern", "alpha_pattern", "use_dora"):
        if getattr(config, name, None):
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


def write_lora(source: Source, folder: Path) -> None:
    """PEFT's two files, as they are, and diffusers' one.

    Raises:
        CheckpointError: there is no LoRA, or it changes more than the UNet.
    """
    if source.complete or is_stage1(source.model):
        what = "trained every weight" if source.complete else "is of stage 1 and changes the VAE"
        raise CheckpointError(f"'{source.model}' {what}, which no LoRA file holds: --format merged")
    tensors = diffusers_tensors(read_adapter(source.model), source.model)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(source.model / name, folder / name)
    save_file(tensors, folder / DIFFUSERS_FILE, metadata={"format": "pt"})


def merged_source(source: Source, network: NetworkOptions | None) -> OneStepSRPipeline:
    """The complete model, in float32, with the run's timesteps and prompt."""
    if source.complete:
        return OneStepSRPipeline.from_pretrained(source.model)
    if network is None:
        raise OptionError(f"'{source.model}' is from no known run: name its base with --base")
    pipeline = OneStepSRPipeline.from_pretrained(
        network.base,
        network.revision,
        t_add=network.t_add,
        t_diff=network.t_diff,
        unet=network.unet,
        vae=network.vae,
    )
    if network.prompt is not None:
        pipeline.register_to_config(prompt=network.prompt)
    pipeline.load_lora_weights(source.model)
    return merge_adapters(pipeline)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parse_arguments(argv)
    folder, merged = arguments.output, arguments.format == "merged"
    refuse_existing(folder)
    if arguments.push_to_hub is not None:
        check_hub_access(arguments.push_to_hub)
    source = find_source(arguments.run)
    facts = run_facts(source)
    network = network_options(source, facts, arguments.base, arguments.revision)
    title = (arguments.push_to_hub or facts.options.get("name") or folder.name).split("/")[-1]
    pipeline = merged_source(source, network) if merged else None
    with new_folder(folder) as temporary:
        if pipeline is None:
            write_lora(source, temporary)
        else:
            components = {**pipeline.components, "prompt": pipeline.config.prompt}
            save_model_folder(components, temporary)
        card = model_card(facts, title, merged, network, arguments.license)
        write_file(temporary / "README.md", card)
    print(folder)
    if arguments.push_to_hub is not None:
        print(push_folder(folder, arguments.push_to_hub))
    return 0
