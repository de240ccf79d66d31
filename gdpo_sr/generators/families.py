"""All families of networks, by the class name in a model's config.json."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from gdpo_sr.generators.family import AutoencoderFamily, NetworkFamily
from gdpo_sr.generators.lapped_autoencoder import LappedFamily
from gdpo_sr.generators.latent_rrdb import LatentRRDBFamily
from gdpo_sr.generators.stable_diffusion import AutoencoderKLFamily, UNetFamily
from gdpo_sr.types import CheckpointError

NETWORKS: dict[str, NetworkFamily] = {
    "UNet2DConditionModel": UNetFamily(),
    "LatentRRDBNet": LatentRRDBFamily(),
}
AUTOENCODERS: dict[str, AutoencoderFamily] = {
    "AutoencoderKL": AutoencoderKLFamily(),
    "LappedAutoencoder": LappedFamily(),
}

Family = TypeVar("Family", NetworkFamily, AutoencoderFamily)


def network_family(network: nn.Module) -> NetworkFamily:
    """Family of a network, whatever it is wrapped in."""
    return _family(network, NETWORKS)


def autoencoder_family(autoencoder: nn.Module) -> AutoencoderFamily:
    """Family of an autoencoder."""
    return _family(autoencoder, AUTOENCODERS)


def _family(network: nn.Module, families: dict[str, Family]) -> Family:
    """By the class or one that it descends from, for sharding makes subclasses.

    Raises:
        CheckpointError: it is of no known family.
    """
    for kind in type(network).__mro__:
        if kind.__name__ in families:
            return families[kind.__name__]
    raise CheckpointError(f"a {type(network).__name__} is none of {', '.join(families)}")
