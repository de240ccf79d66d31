"""A base and a LoRA of stage 1 or 2 as one model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gdpo_sr.checkpoints.load_adapter import load_adapter, merge_adapters
from gdpo_sr.checkpoints.lora import find_adapter
from gdpo_sr.checkpoints.meaning import base_of, read_meaning
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.types import CheckpointError


def merged_generator(
    lora: str | Path,
    place: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
    scale: float = 1.0,
) -> NoiseAwareGenerator:
    """The base with a LoRA merged into its weights, in float32, with the training's meaning.

    Args:
        place: base, revision, unet and vae; None, or None for base: those of the training.
        given: t_add, t_diff and prompt that go before the training's.
        scale: of the LoRA.

    Raises:
        CheckpointError: the LoRA is missing or does not fit the base.
    """
    place = base_of(read_meaning(find_adapter(lora)), place or {})
    network = build_generator(load_components(**place))
    load_adapter(network, lora, given=given, scale=scale)
    return merge_adapters(network)


def find_run_adapter(run: Path) -> Path:
    """The LoRA of a run; a run that trained every weight has none to merge."""
    whole = run / "models" / "latest"
    if (whole / "model_index.json").is_file():
        raise CheckpointError(
            f"'{run}' trained every weight: '{whole}' is a complete model already, use it as it is"
        )
    return find_adapter(run)
