"""What the package asks of a kind of network: all that differs between kinds is in their families.

A family is a subclass in a file of its own; `gdpo_sr.generators.families` names them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn


class NetworkFamily:
    """A kind of network that turns noisy latents into a prediction, called once per output.

    Attributes:
        lora_targets: regular expression of the whole names of modules that get a LoRA.
        input_layer: the convolution that stage 1 trains in full, which takes the noisy latents.
    """

    lora_targets: str
    input_layer: str

    @property
    def network(self) -> type[nn.Module]:
        """Its class, in diffusers' manner: `from_pretrained`, `config.in_channels`. A library is
        imported here, when the class is asked for.
        """
        raise NotImplementedError

    def check(self, config: Mapping[str, Any], folder: Path) -> None:
        """Raise CheckpointError for a config in `folder` that this family cannot run."""

    def size_multiple(self, network: nn.Module) -> int:
        """Sides of latents must be multiples of this."""
        return 1

    def text_width(self, network: nn.Module) -> int | None:
        """Width of the text embeddings that it takes; None: any, for it does not read them."""
        return None

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """Parts whose weights may be gathered one by one, where several processes share them."""
        return []

    def predict(
        self, network: nn.Module, noisy: torch.Tensor, t_diff: int, prompt_embeds: torch.Tensor
    ) -> torch.Tensor:
        """Its output (N, c, h, w), of the scheduler's `prediction_type`.

        Args:
            noisy: latents (N, c, h, w).
            t_diff: the timestep that it is told.
            prompt_embeds: (N, tokens, d).
        """
        raise NotImplementedError


class AutoencoderFamily:
    """A kind of autoencoder with AutoencoderKL's interface.

    Attributes:
        lora_targets: of its encoder, as in `NetworkFamily`.
    """

    lora_targets: str

    @property
    def network(self) -> type[nn.Module]:
        """Its class, imported when it is asked for."""
        raise NotImplementedError

    def pixels_per_latent(self, network: nn.Module) -> int:
        """Side, in pixels, of the square that one latent pixel covers."""
        raise NotImplementedError
