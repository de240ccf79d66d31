"""Memory of one training update, counted on fake tensors: shapes and types without values.

The generator's part of an update runs through networks that are built from their configs alone, and
every tensor's bytes are counted from when it is made until it is freed. So "peak" is what the
tensors need; the allocator's rounding, the libraries' workspaces, the metrics' networks and the
pictures that wait in loaders come on top.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.checkpoints.lora import add_lora
from gdpo_sr.generators.families import AUTOENCODERS, NETWORKS, autoencoder_family, network_family

TOKENS = 77
DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
Forward = Callable[[], torch.Tensor]
Build = Callable[[], tuple[Forward, list[nn.Parameter]]]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations made and that are still referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


@dataclass(frozen=True)
class Measured:
    """Bytes of one update: weights, trained ones among them, what the forward pass leaves for the
    backward pass, and the most at any time.
    """

    weights: int
    trained: int
    activations: int
    peak: int

    @property
    def optimizer(self) -> int:
        """AdamW's two moments."""
        return 2 * self.trained


@dataclass(frozen=True)
class Networks:
    """What an update is run on.

    Attributes:
        unet, vae: configs, as in config.json.
        pixels: side of the pictures.
        rank: of the LoRA.
        checkpointing: activations are computed again in the backward pass.
        precision: "no", "bf16" or "fp16", by autocast over float32 weights.
    """

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    pixels: int
    rank: int = 4
    checkpointing: bool = False
    precision: str = "bf16"

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Frozen network and autoencoder, in training mode for checkpointing to act."""
        found = []
        for config, families in ((self.unet, NETWORKS), (self.vae, AUTOENCODERS)):
            network = families[config["_class_name"]].network.from_config(dict(config))
            network.requires_grad_(False).train()
            if self.checkpointing and network._supports_gradient_checkpointing:
                network.enable_gradient_checkpointing()
            found.append(network)
        return found[0], found[1]

    def latents(self, count: int, vae: nn.Module) -> torch.Tensor:
        """(count, c, h, w) of pictures of this size."""
        side = self.pixels // autoencoder_family(vae).pixels_per_latent(vae)
        return torch.zeros(count, vae.config.latent_channels, side, side)


def measure(networks: Networks, build: Build, backward: bool = True) -> Measured:
    """Build, run forward, then backward if there is one; all as fake tensors.

    PEFT moves new adapters to the device where they are, which fake tensors do not allow.
    """
    dtype = DTYPES[networks.precision]
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as count:
        with patch.object(nn.Module, "to", lambda module, *_, **__: module):
            forward, parameters = build()
        weights = count.live
        autocast = torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None)
        with autocast, torch.set_grad_enabled(backward):
            result = forward()
        activations = count.live - weights
        if backward:
            result.backward()
        trained = sum(p.nbytes for p in parameters)
        return Measured(weights, trained, activations, count.peak)


def predict(network: nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """One pass of a network of any family."""
    family = network_family(network)
    embeds = torch.zeros(len(latents), TOKENS, family.text_width(network) or 1)
    return family.predict(network, latents, 100, embeds)


def stage2_update(networks: Networks, candidates: int) -> Measured:
    """The policy's pass over so many candidates at once, and its error."""

    def build() -> tuple[Forward, list[nn.Parameter]]:
        unet, vae = networks.build()
        parameters = add_lora(unet, networks.rank)
        noisy = networks.latents(candidates, vae)

        def forward(kept: nn.Module = vae) -> torch.Tensor:
            return predict(unet, noisy).float().square().mean()

        return forward, parameters

    return measure(networks, build)


def sampling(networks: Networks, candidates: int) -> Measured:
    """Restoring so many candidates at once, without a graph."""

    def build() -> tuple[Forward, list[nn.Parameter]]:
        unet, vae = networks.build()
        parameters = add_lora(unet, networks.rank)
        noisy = networks.latents(candidates, vae)

        def forward() -> torch.Tensor:
            return vae.decode(predict(unet, noisy)).sample

        return forward, parameters

    return measure(networks, build, backward=False)


def stage1_update(networks: Networks, pictures: int) -> Measured:
    """Encode, one pass of the network, decode, a pixel loss and the VGG-16 of LPIPS."""

    def build() -> tuple[Forward, list[nn.Parameter]]:
        from torchvision.models import vgg16

        unet, vae = networks.build()
        adapters = GeneratorAdapters(unet, vae)
        adapters.add(networks.rank)
        features = vgg16().features[:30].requires_grad_(False)
        lr = torch.zeros(pictures, 3, networks.pixels, networks.pixels)

        def forward() -> torch.Tensor:
            latents = vae.encode(lr).latent_dist.mean
            image = vae.decode(latents - predict(unet, latents)).sample.float().clamp(-1, 1)
            seen, kept = image, []
            for layer in features:
                seen = layer(seen)
                kept.append(seen.to(torch.float32, copy=True).square().mean())  # ReLU is in place
            return image.square().mean() + torch.stack(kept).sum()

        return forward, list(adapters.parameters().values())

    return measure(networks, build)
