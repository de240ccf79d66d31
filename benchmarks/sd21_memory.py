"""Memory of one training update at the size of Stable Diffusion 2.1, without a GPU or weights.

    python -m benchmarks.sd21_memory

The networks are built from the configs of `sd_layout.py` as fake tensors: shapes and types without
values. The generator's part of one update then runs forward and backward through them, and every
tensor's bytes are counted from when it is made until it is freed. So "peak" is what the tensors
need; the allocator's rounding, the libraries' workspaces, the metrics' networks and the pictures
that wait in loaders come on top (a GPU that shows less has fused what is two tensors here).
Precision is bf16 by autocast over float32 weights, as in the options files. Printed is Markdown.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.sd_layout import TOKENS, unet_config, vae_config
from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.checkpoints.lora import add_lora

GIB = 2**30
RANK = 4
PIXELS = 512
SCALING = 0.18215


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
    """Bytes of one update."""

    weights: int
    trained: int
    activations: int
    peak: int

    def row(self, name: str, batch: str, checkpointing: bool) -> str:
        optimizer = 2 * self.trained
        parts = (self.weights, self.trained, optimizer, self.activations, self.peak + optimizer)
        figures = [f"{size / GIB:.2f}" for size in parts]
        return "| " + " | ".join([name, batch, "yes" if checkpointing else "no", *figures]) + " |"


def measure(build: Callable[[bool], tuple], checkpointing: bool) -> Measured:
    """Build networks, run forward, then backward; all as fake tensors.

    PEFT moves new adapters to the device where they are, which fake tensors do not allow.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as count:
        with patch.object(torch.nn.Module, "to", lambda module, *_, **__: module):
            forward, parameters = build(checkpointing)
        weights = count.live
        with torch.autocast("cpu", torch.bfloat16):
            loss = forward()
        activations = count.live - weights
        loss.backward()
        trained = sum(p.nbytes for p in parameters)
        return Measured(weights, trained, activations, count.peak)


def networks(checkpointing: bool) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """Frozen float32 UNet and autoencoder, in training mode for checkpointing to act."""
    unet = UNet2DConditionModel(**unet_config())
    vae = AutoencoderKL(**vae_config())
    for network in (unet, vae):
        network.requires_grad_(False).train()
        if checkpointing:
            network.enable_gradient_checkpointing()
    return unet, vae


def predict(unet: torch.nn.Module, latents: torch.Tensor) -> torch.Tensor:
    return unet(latents, 100, encoder_hidden_states=torch.zeros(len(latents), TOKENS, 1024)).sample


def stage2(candidates: int, checkpointing: bool) -> tuple:
    """The policy's pass over `candidates`, and its error."""
    unet, _vae = networks(checkpointing)
    add_lora(unet, RANK)
    noisy = torch.zeros(candidates, 4, PIXELS // 8, PIXELS // 8)

    def forward() -> torch.Tensor:
        forward.networks = unet, _vae
        return predict(unet, noisy).float().square().mean()

    return forward, [p for p in unet.parameters() if p.requires_grad]


def stage1(pictures: int, checkpointing: bool) -> tuple:
    """Encode, one UNet call, decode, a pixel loss and the VGG-16 of LPIPS."""
    from torchvision.models import vgg16

    unet, vae = networks(checkpointing)
    adapters = GeneratorAdapters(unet, vae)
    adapters.add(RANK)
    features = vgg16().features[:30].requires_grad_(False)
    lr = torch.zeros(pictures, 3, PIXELS, PIXELS)

    def forward() -> torch.Tensor:
        latents = vae.encode(lr).latent_dist.mean * SCALING
        image = vae.decode((latents - predict(unet, latents)) / SCALING).sample.float().clamp(-1, 1)
        seen, kept = image, []
        for layer in features:
            seen = layer(seen)
            kept.append(seen.float().square().mean())
        return image.square().mean() + torch.stack(kept).sum()

    return forward, list(adapters.parameters().values())


def fake_score(pictures: int, checkpointing: bool) -> tuple:
    """Stage 1's second backward pass: the fake score on restored latents."""
    return stage2(pictures, checkpointing)


HEAD = (
    "| update | at once | checkpointing | weights | trained | AdamW | activations | peak |\n"
    "|---|---|---|---|---|---|---|---|"
)
ROWS = (
    ("stage 2", stage2, 1, "candidate"),
    ("stage 2", stage2, 6, "candidates"),
    ("stage 1, generator", stage1, 1, "picture"),
    ("stage 1, generator", stage1, 2, "pictures"),
    ("stage 1, fake score", fake_score, 2, "pictures"),
)


def main() -> None:
    """Print the table, in GiB."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(HEAD, flush=True)
    for name, build, count, unit in ROWS:
        for checkpointing in (False, True):
            measured = measure(lambda on, b=build, n=count: b(n, on), checkpointing)
            print(measured.row(name, f"{count} {unit}", checkpointing), flush=True)


if __name__ == "__main__":
    main()
