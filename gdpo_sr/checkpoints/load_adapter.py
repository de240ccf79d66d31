"""A trained adapter of either stage on a network, with what it means, and both as one model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.checkpoints.lora import (
    attach_lora,
    find_adapter,
    is_stage1,
    load_lora,
    lora_parameters,
    merge_lora,
    read_adapter,
)
from gdpo_sr.checkpoints.meaning import apply_meaning, base_of, check_base, read_meaning
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.types import CheckpointError


def load_adapter(
    network: NoiseAwareGenerator,
    folder: str | Path,
    name: str = "default",
    given: Mapping[str, Any] | None = None,
    scale: float = 1.0,
) -> GeneratorAdapters | None:
    """Add the adapter in `folder`, or of the run there, and restore as it was trained to.

    Args:
        name: of the adapter on the networks.
        given: t_add, t_diff and prompt as the user gave them; they go before the training's.
        scale: 1 is the adapter as trained, 0 the base.

    Returns:
        what there is of an adapter of stage 1, which changes more than the network; None: stage 2.

    Raises:
        CheckpointError: there is none, or it does not fit this base.
    """
    adapter = find_adapter(folder)
    meaning = read_meaning(adapter)
    whole = None
    if is_stage1(adapter):
        if lora_parameters(network.unet):
            raise CheckpointError(
                f"'{adapter}' is a LoRA of stage 1 and replaces weights: load it before any other"
            )
        whole = GeneratorAdapters(network.unet, network.vae, name)
        whole.load(adapter, scale=scale)
    else:
        own = read_adapter(adapter, network.unet)
        attach_lora(network.unet, own, adapter, name, scale=scale)
    check_base(network.unet, meaning, adapter)
    apply_meaning(network, meaning, given)
    network.eval()  # the dropout of a new adapter starts in training mode
    return whole


def continue_adapter(
    network: NoiseAwareGenerator, folder: str | Path, given: Mapping[str, Any]
) -> None:
    """`load_adapter` of stage 2 for further training: its parameters are trainable.

    Raises:
        CheckpointError: there is none, it does not fit, it is of stage 1, or of a project whose
            LoRA makes the one-step model: without it the reference would be a plain base.
    """
    adapter = find_adapter(folder)
    meaning = read_meaning(adapter)
    if meaning.project is not None and not is_stage1(adapter):
        raise CheckpointError(
            f"'{adapter}' is the LoRA of {meaning.project}, which makes a one-step model out of "
            "its base, and stage 2 would compare with the base alone: merge it (gdpo-sr merge "
            f"--base BASE --lora {adapter} -o FOLDER) and use FOLDER as network_g.base"
        )
    load_lora(network.unet, adapter, trainable=True)
    check_base(network.unet, meaning, adapter)
    apply_meaning(network, meaning, given)


def merge_adapters(network: NoiseAwareGenerator) -> NoiseAwareGenerator:
    """Merge what is on UNet and VAE into their weights; same function."""
    for part in (network.unet, network.vae):
        if lora_parameters(part):
            merge_lora(part)
    return network


def merged_generator(
    lora: str | Path,
    place: Mapping[str, Any],
    scale: float = 1.0,
) -> NoiseAwareGenerator:
    """The base with a LoRA merged into its weights, in float32, with the training's meaning.

    Args:
        place: base, revision, unet and vae; without a base those of the training.
        scale: of the LoRA.

    Raises:
        CheckpointError: the LoRA is missing or does not fit the base.
    """
    place = base_of(read_meaning(find_adapter(lora)), place)
    network = build_generator(load_components(**place))
    load_adapter(network, lora, scale=scale)
    return merge_adapters(network)


def find_run_adapter(run: Path) -> Path:
    """The LoRA of a run; a run that trained every weight has none to merge."""
    whole = run / "models" / "latest"
    if (whole / "model_index.json").is_file():
        raise CheckpointError(
            f"'{run}' trained every weight: '{whole}' is a complete model already, use it as it is"
        )
    return find_adapter(run)
