"""What options ask of the networks for memory and speed; none of it changes what they compute."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import nn

from gdpo_sr.config.run_options import RunOptions


def set_up_networks(networks: list[nn.Module], train: RunOptions) -> None:
    """Prepare UNets and autoencoders that carry their adapters, before an optimizer is built.

    Attention is diffusers' default, torch's scaled_dot_product_attention, and needs no option.
    """
    for network in networks:
        if train.gradient_checkpointing and network._supports_gradient_checkpointing:
            network.enable_gradient_checkpointing()
        if train.channels_last:
            network.to(memory_format=torch.channels_last)
        if train.vae_slicing and isinstance(network, AutoencoderKL):
            network.enable_slicing()
        if train.compile:
            _compile(network)


def _compile(network: nn.Module) -> None:
    """In place, so that names of weights and the switching of adapters stay as they are."""
    if isinstance(network, AutoencoderKL):
        network.encoder.compile()
        network.decoder.compile()
    else:
        network.compile()
