"""The families of Stable Diffusion: diffusers' UNet2DConditionModel and AutoencoderKL."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdpo_sr.generators.family import AutoencoderFamily, NetworkFamily
from gdpo_sr.types import CheckpointError


class UNetFamily(NetworkFamily):
    """UNet with cross-attention, of Stable Diffusion 1 and 2.

    LoRA is on attention q, k, v and out, convolutions, proj_in/out and feed-forward, as in the
    released code; the time embedding is left out.
    """

    lora_targets = (
        r"(.*\.)?(conv_in|conv_out|conv1|conv2|conv|conv_shortcut|proj_in|proj_out"
        r"|to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2)"
    )
    input_layer = "conv_in"

    @property
    def network(self) -> type[nn.Module]:
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel

    def check(self, config: Mapping[str, Any], folder: Path) -> None:
        """SDXL's UNet wants a pooled text and picture sizes beside the prompt."""
        kind = config.get("addition_embed_type")
        if kind is not None:
            raise CheckpointError(
                f"'{folder}/config.json': addition_embed_type = {kind}: SDXL is not supported, use "
                "a base of Stable Diffusion 1 or 2"
            )

    def size_multiple(self, network: nn.Module) -> int:
        return 2 ** (len(network.config.block_out_channels) - 1)

    def text_width(self, network: nn.Module) -> int | None:
        return network.config.cross_attention_dim

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        return [*network.down_blocks, network.mid_block, *network.up_blocks]

    def predict(
        self, network: nn.Module, noisy: torch.Tensor, t_diff: int, prompt_embeds: torch.Tensor
    ) -> torch.Tensor:
        step = torch.full((len(noisy),), t_diff, device=noisy.device)  # a number would be copied
        return network(noisy, step, encoder_hidden_states=prompt_embeds).sample


class AutoencoderKLFamily(AutoencoderFamily):
    """LoRA is on convolutions and attention of the encoder, as in the released code."""

    lora_targets = (
        r"quant_conv|encoder\.(.*\.)?"
        r"(conv_in|conv_out|conv1|conv2|conv|conv_shortcut|to_q|to_k|to_v|to_out\.0)"
    )

    @property
    def network(self) -> type[nn.Module]:
        from diffusers import AutoencoderKL

        return AutoencoderKL

    def pixels_per_latent(self, network: nn.Module) -> int:
        return 2 ** (len(network.config.block_out_channels) - 1)
