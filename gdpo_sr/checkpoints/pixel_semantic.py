"""PiSA-SR's two LoRAs on a generator, with its two dials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdpo_sr.checkpoints.load_adapter import load_adapter, merge_adapters
from gdpo_sr.checkpoints.lora import adapters_disabled, lora_parameters
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.types import CheckpointError

PIXEL, SEMANTIC = "pixel", "semantic"


@dataclass(frozen=True)
class OutputDial:
    """pixel e_0 + semantic (e_1 - e_0), e_0 and e_1 the network's answers without and with its
    LoRA (PiSA-SR, arXiv 2412.03017, section 3.4). Two passes.
    """

    pixel: float
    semantic: float

    def __call__(self, network: nn.Module, answer: Callable[[], torch.Tensor]) -> torch.Tensor:
        with adapters_disabled(network):
            without = answer()
        return self.pixel * without + self.semantic * (answer() - without)


def load_pixel_semantic(
    generator: NoiseAwareGenerator,
    folder: str | Path,
    pixel_scale: float = 1.0,
    semantic_scale: float = 1.0,
    given: Mapping[str, Any] | None = None,
) -> None:
    """Merge the pixel LoRA into the weights, add the semantic one, and mix the answers.

    Args:
        folder: with the folders pixel and semantic, written by `gdpo-sr convert`.
        pixel_scale: of what the pixel LoRA removes.
        semantic_scale: of the detail that the semantic one adds.
        given: as of `load_adapter`.

    Raises:
        CheckpointError: no such folders, or a LoRA is loaded already.
    """
    parts = [Path(folder) / name for name in (PIXEL, SEMANTIC)]
    if not all(part.is_dir() for part in parts) or lora_parameters(generator.unet):
        raise CheckpointError(
            f"'{folder}': pixel and semantic scales need a LoRA of PiSA-SR (folders pixel and "
            "semantic, written by gdpo-sr convert) on a model without another LoRA"
        )
    load_adapter(generator, parts[0], PIXEL, given)
    merge_adapters(generator)
    load_adapter(generator, parts[1], SEMANTIC, given)
    generator.dial = OutputDial(pixel_scale, semantic_scale)
