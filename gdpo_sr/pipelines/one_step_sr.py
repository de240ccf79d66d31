"""OneStepSRPipeline: LR pictures in, restored pictures out, in diffusers' conventions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import nn

from gdpo_sr.candidates import draw_noise
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.lora import load_lora
from gdpo_sr.schedulers.one_step import OneStepScheduler
from gdpo_sr.types import ImageError, OptionError
from gdpo_sr.utils.color_fix import apply_color_fix
from gdpo_sr.utils.tiling import tiled_apply

Picture = Image.Image | torch.Tensor | np.ndarray


@dataclass
class OneStepSROutput(BaseOutput):
    """`images`: PIL pictures, a float array (N, H, W, 3) or a tensor (N, 3, H, W) in [0, 1]; candidates of a picture adjoin."""

    images: list[Image.Image] | np.ndarray | torch.Tensor


class OneStepSRPipeline(DiffusionPipeline):
    """One-step super-resolution with a noise-aware generator.

    Args:
        unet, vae, text_encoder, tokenizer, scheduler: parts of a base model.
        prompt: prompt used where the caller gives none; saved with the model.
    """

    model_cpu_offload_seq = "text_encoder->vae->unet"

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module,
        text_encoder: nn.Module,
        tokenizer: Any,
        scheduler: OneStepScheduler,
        prompt: str = "",
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )
        self.register_to_config(prompt=prompt)
        self.generator = build_generator({**self.components, "prompt": prompt})

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path,
        revision: str | None = None,
        torch_dtype: torch.dtype = torch.float32,
        t_add: int | None = None,
        t_diff: int | None = None,
    ) -> OneStepSRPipeline:
        """Load ``"mini"``, a folder in diffusers layout, or a hub id (the only case that uses the network).

        Raises:
            CheckpointError: the base is missing, incomplete or cannot be reached.
        """
        return cls(**load_components(base, revision, t_add, t_diff, torch_dtype))

    def load_lora_weights(self, folder: str | Path, adapter_name: str = "default") -> None:
        """Add the LoRA in `folder` (adapter_config.json, adapter_model.safetensors) to the UNet.

        Raises:
            CheckpointError: no adapter there, or one of another architecture.
        """
        load_lora(self.unet, folder, adapter_name)

    @torch.no_grad()
    def __call__(
        self,
        image: Picture | list[Picture],
        scale: float = 4,
        generator: torch.Generator | None = None,
        t_add: int | None = None,
        num_candidates: int = 1,
        prompt: str | None = None,
        color_fix: str = "wavelet",
        tile: int | None = None,
        tile_overlap: int = 16,
        output_type: str = "pil",
    ) -> OneStepSROutput:
        """Restore one picture or a list of pictures.

        Args:
            image: PIL picture, float array (H, W, 3) or tensor (3, H, W) or (N, 3, H, W), RGB in [0, 1].
            scale: output size divided by input size.
            generator: source of the injected noise; None draws from a fresh, random one.
            t_add: noise level at inference, 0 .. 999: larger is more realistic, smaller more faithful.
            num_candidates: different outputs per picture (G); those of one picture adjoin in the result.
            prompt: text for the UNet; None takes the base's own.
            color_fix: ``wavelet``, ``adain`` or ``none``: take low frequencies or colour statistics from the input.
            tile: side of a tile in latent pixels; None processes the whole picture at once.
            tile_overlap: latent pixels shared by neighbouring tiles.
            output_type: ``pil``, ``np`` or ``pt``.

        Raises:
            OptionError: an argument is outside its range.
            ImageError: a picture cannot be used.
        """
        # 1. Check
        _check_arguments(scale, num_candidates, output_type, tile, tile_overlap)
        if generator is None:
            generator = torch.Generator().manual_seed(torch.seed() % 2**63)
        # 2. Restore picture by picture: sizes may differ
        results = []
        for picture in to_tensors(image):
            enlarged = enlarge(picture.to(self.device, self.unet.dtype), scale)
            restored = self._restore(enlarged, generator, num_candidates, prompt, t_add, tile, tile_overlap)
            # 3. Colours
            results.append(apply_color_fix(color_fix, restored, enlarged.expand_as(restored)).clamp(0, 1))
        # 4. Output
        return OneStepSROutput(images=_to_output(results, output_type))

    def _restore(
        self,
        enlarged: torch.Tensor,
        rng: torch.Generator,
        count: int,
        prompt: str | None,
        t_add: int | None,
        tile: int | None,
        overlap: int,
    ) -> torch.Tensor:
        """`count` restorations (count, 3, H, W) in [0, 1] of one enlarged picture (1, 3, H, W) in [0, 1]."""
        model = self.generator
        height, width = enlarged.shape[-2:]
        latents = model.encode(pad_to_multiple(enlarged, model.size_multiple) * 2 - 1)
        embeds = model.prompt_encoder([model.prompt if prompt is None else prompt])
        outputs = []
        for _ in range(count):
            noise = draw_noise(latents.shape, rng, latents.device, latents.dtype)
            step = _denoiser(model, embeds, t_add)
            restored = step(latents, noise) if tile is None else tiled_apply(
                step, latents, noise, tile=tile, overlap=overlap
            )
            outputs.append(model.decode(restored)[..., :height, :width])
        return torch.cat(outputs) / 2 + 0.5


def _denoiser(
    model: nn.Module, embeds: torch.Tensor, t_add: int | None
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def step(latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return model.restore_latents(latents, noise, embeds.expand(len(latents), -1, -1), t_add)

    return step


def _check_arguments(
    scale: float, num_candidates: int, output_type: str, tile: int | None, overlap: int
) -> None:
    if not 0 < scale <= 16:
        raise OptionError(f"scale = {scale}: use a number above 0 and at most 16")
    if num_candidates < 1:
        raise OptionError(f"num_candidates = {num_candidates}: use 1 or more")
    if output_type not in ("pil", "np", "pt"):
        raise OptionError(f"output_type = {output_type!r}: use 'pil', 'np' or 'pt'")
    if tile is not None and not 0 <= 2 * overlap < tile:
        raise OptionError(f"tile = {tile} with tile_overlap = {overlap}: tile must exceed twice the overlap")


def to_tensors(image: Picture | list[Picture]) -> list[torch.Tensor]:
    """Pictures as float tensors (1, 3, H, W) in [0, 1]."""
    if isinstance(image, torch.Tensor) and image.ndim == 4:
        return list(image.split(1))
    if isinstance(image, (list, tuple)):
        return [tensor for picture in image for tensor in to_tensors(picture)]
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise ImageError(
            f"a picture of shape {tuple(image.shape)} and type {image.dtype} cannot be used: "
            "give RGB floats in [0, 1], (3, H, W) as a tensor or (H, W, 3) as an array"
        )
    return [image[None]]


def enlarge(image: torch.Tensor, scale: float) -> torch.Tensor:
    """Bicubic resize of (N, 3, h, w) in [0, 1] to round(scale * size), as the generator expects its input."""
    height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
    return F.interpolate(image, size=(height, width), mode="bicubic").clamp(0, 1)


def pad_to_multiple(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """Replicate the right and lower border until both sides are multiples of `multiple`."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _to_output(results: list[torch.Tensor], output_type: str) -> Any:
    images = [image.float().cpu() for batch in results for image in batch]
    if output_type == "pt":
        return torch.stack(images)
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    if output_type == "np":
        return np.stack(arrays)
    return [Image.fromarray((array * 255).round().astype(np.uint8)) for array in arrays]
