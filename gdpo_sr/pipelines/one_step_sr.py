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
from gdpo_sr.lora import load_lora, lora_parameters
from gdpo_sr.schedulers.one_step import OneStepScheduler
from gdpo_sr.types import CheckpointError, ImageError, OptionError
from gdpo_sr.utils.color_fix import COLOR_FIXES, apply_color_fix
from gdpo_sr.utils.tiling import tiled_apply

Picture = Image.Image | torch.Tensor | np.ndarray
OUTPUT_TYPES = ("pil", "np", "pt")
MAX_SCALE = 16


@dataclass
class OneStepSROutput(BaseOutput):
    """`images`: PIL pictures, a float array (N, H, W, 3) or a tensor (N, 3, H, W) in [0, 1].

    Candidates of one picture follow each other.
    """

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

    def __setattr__(self, name: str, value: Any) -> None:
        """A part that is exchanged (``pipe.scheduler = ...``) is exchanged in the generator too."""
        super().__setattr__(name, value)
        if "generator" in vars(self) and name in self.components:
            self.generator = build_generator({**self.components, "prompt": self.config.prompt})

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path,
        revision: str | None = None,
        torch_dtype: torch.dtype = torch.float32,
        t_add: int | None = None,
        t_diff: int | None = None,
    ) -> OneStepSRPipeline:
        """Load ``"mini"``, a folder in diffusers layout, or a hub id.

        Only a hub id that is not in the cache uses the network.

        Raises:
            CheckpointError: the base is missing, incomplete or cannot be reached.
        """
        return cls(**load_components(base, revision, t_add, t_diff, torch_dtype))

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the model in diffusers layout, prompt and timesteps included.

        Raises:
            CheckpointError: a LoRA is loaded, which this layout has no place for.
        """
        if lora_parameters(self.unet):
            raise CheckpointError(
                f"'{save_directory}': a model with a LoRA cannot be saved as one model; "
                "call gdpo_sr.lora.merge_lora(pipe.unet) first, or save_lora for the LoRA alone"
            )
        super().save_pretrained(save_directory, **kwargs)

    def load_lora_weights(self, folder: str | Path, adapter_name: str = "default") -> None:
        """Add the LoRA in `folder` to the UNet and make it the active one.

        `folder` holds adapter_config.json and adapter_model.safetensors, or is a training run.

        Raises:
            CheckpointError: no adapter there, or one of another architecture.
            OptionError: an adapter of this name is loaded.
        """
        if adapter_name in getattr(self.unet, "peft_config", {}):
            raise OptionError(
                f"adapter_name = {adapter_name!r}: a LoRA of this name is loaded; give another name"
            )
        load_lora(self.unet, folder, adapter_name)
        self.unet.eval()  # the dropout of a new adapter starts in training mode

    def to(self, *args: Any, **kwargs: Any) -> OneStepSRPipeline:
        """Move or cast every part; embeddings of the old device and type are forgotten."""
        self.generator.prompt_encoder.clear()
        return super().to(*args, **kwargs)

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
        """Restore one picture or several.

        Args:
            image: PIL picture, float array (H, W, 3) or (N, H, W, 3), tensor (3, H, W) or
                (N, 3, H, W), RGB in [0, 1], or a list of these.
            scale: output size divided by input size; an output side is round(scale * side).
            generator: source of the injected noise; None draws from a fresh, random one.
            t_add: noise level at inference, 0 .. 999: larger is more realistic, smaller more
                faithful; None takes the saved one.
            num_candidates: different outputs per picture (G); they follow each other.
            prompt: text for the UNet; None takes the base's own.
            color_fix: ``wavelet`` takes the low frequencies of the input, ``adain`` the mean and
                deviation of its channels, ``none`` leaves the colours.
            tile: side of a tile in latent pixels; None gives the UNet the whole picture at once.
            tile_overlap: latent pixels shared by neighbouring tiles.
            output_type: ``pil``, ``np`` or ``pt``.

        Raises:
            OptionError: an argument is outside its range.
            ImageError: a picture cannot be used.
        """
        # 1. Check
        check_arguments(scale, num_candidates, color_fix, output_type, tile, tile_overlap)
        if t_add is not None:
            self.scheduler.check_timestep("t_add", t_add)
        pictures = to_tensors(image)
        _check_sizes(pictures, scale, output_type)
        # 2. Prompt and noise
        rng = _random_generator() if generator is None else generator
        embeds = self.generator.prompt_encoder([self.config.prompt if prompt is None else prompt])

        def denoise(latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return self.generator.restore_latents(latents, noise, embeds, t_add)

        def denoise_tiled(latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return tiled_apply(denoise, latents, noise, tile=tile, overlap=tile_overlap)

        step = denoise if tile is None else denoise_tiled
        # 3. Restore picture by picture, since sizes may differ; colours in full precision
        results = []
        for picture in pictures:
            enlarged = enlarge(picture.to(self._execution_device, torch.float32), scale)
            restored = self._restore(enlarged, step, rng, num_candidates)
            source = enlarged.expand_as(restored)
            results.append(apply_color_fix(color_fix, restored, source).clamp(0, 1))
        # 4. Output
        return OneStepSROutput(images=_to_output(results, output_type))

    def _restore(
        self,
        enlarged: torch.Tensor,
        step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        rng: torch.Generator,
        count: int,
    ) -> torch.Tensor:
        """`count` restorations (count, 3, H, W) of one picture (1, 3, H, W), float32 in [0, 1].

        `step` maps latents and noise to restored latents; the picture is encoded once.
        """
        model = self.generator
        height, width = enlarged.shape[-2:]
        padded = pad_to_multiple(enlarged, model.size_multiple) * 2 - 1
        latents = model.encode(padded.to(self.unet.dtype))
        outputs = []
        for _ in range(count):
            noise = draw_noise(latents.shape, rng, latents.device, latents.dtype)
            outputs.append(model.decode(step(latents, noise))[..., :height, :width].float())
        return torch.cat(outputs) / 2 + 0.5


def check_arguments(
    scale: float,
    num_candidates: int,
    color_fix: str,
    output_type: str,
    tile: int | None,
    tile_overlap: int,
) -> None:
    """Raise OptionError for what `OneStepSRPipeline.__call__` cannot take, without a model."""
    if not 0 < scale <= MAX_SCALE:
        raise OptionError(f"scale = {scale}: use a number above 0 and at most {MAX_SCALE}")
    if num_candidates < 1:
        raise OptionError(f"num_candidates = {num_candidates}: use 1 or more")
    if color_fix not in COLOR_FIXES:
        raise OptionError(f"color_fix = {color_fix!r}: use one of {', '.join(COLOR_FIXES)}")
    if output_type not in OUTPUT_TYPES:
        raise OptionError(f"output_type = {output_type!r}: use one of {', '.join(OUTPUT_TYPES)}")
    if tile is not None and not 0 <= 2 * tile_overlap < tile:
        raise OptionError(
            f"tile = {tile}, tile_overlap = {tile_overlap}: the overlap must be 0 or more "
            "and the tile must exceed twice the overlap"
        )


def _check_sizes(pictures: list[torch.Tensor], scale: float, output_type: str) -> None:
    sizes = sorted({output_size(picture, scale) for picture in pictures})
    if len(sizes) > 1 and output_type != "pil":
        shown = ", ".join(f"{width}x{height}" for height, width in sizes[:3])
        raise OptionError(
            f"output_type = {output_type!r} stacks pictures of one size, these become {shown}"
            f"{', ...' if len(sizes) > 3 else ''}: use 'pil' or one call per size"
        )


def to_tensors(image: Picture | list[Picture]) -> list[torch.Tensor]:
    """Pictures as float tensors (1, 3, H, W) in [0, 1].

    Raises:
        ImageError: no picture, or one of another shape, type or range.
    """
    pictures = _split(image)
    if not pictures:
        raise ImageError("no picture was given: pass at least one")
    return [_to_tensor(picture) for picture in pictures]


def _split(image: Picture | list[Picture]) -> list[Picture]:
    is_batch = isinstance(image, (torch.Tensor, np.ndarray)) and image.ndim == 4
    if is_batch or isinstance(image, (list, tuple)):
        return [picture for part in image for picture in _split(part)]
    return [image]


def _to_tensor(image: Picture) -> torch.Tensor:
    if isinstance(image, Image.Image):
        image = _pil_to_array(image)
    if isinstance(image, np.ndarray):
        # (H, W, 3) -> (3, H, W); an array of other dimensions fails the check below
        image = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
    good_shape = image.ndim == 3 and image.shape[0] == 3 and image.numel() > 0
    if not good_shape or not image.is_floating_point():
        raise ImageError(
            f"a picture of shape {tuple(image.shape)} and type {image.dtype} cannot be used: "
            "give RGB floats in [0, 1], (3, H, W) as a tensor or (H, W, 3) as an array"
        )
    low, high = image.min().item(), image.max().item()
    if not (low >= 0 and high <= 1):
        raise ImageError(f"a picture has values from {low:g} to {high:g}: scale it to [0, 1]")
    return image[None]


def _pil_to_array(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        raise ImageError(
            f"a PIL picture of mode {image.mode} cannot be used: convert it to 8-bit RGB, "
            "or read the file with gdpo_sr.utils.image_io.read_image"
        )
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


def output_size(image: torch.Tensor, scale: float) -> tuple[int, int]:
    """(H, W) of the restored picture: round(scale * side), at least 1."""
    height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
    return height, width


def enlarge(image: torch.Tensor, scale: float) -> torch.Tensor:
    """Bicubic resize of (N, 3, h, w) in [0, 1] to `output_size`, the generator's input size."""
    return F.interpolate(image, size=output_size(image, scale), mode="bicubic").clamp(0, 1)


def pad_to_multiple(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """Replicate the right and lower border until both sides are multiples of `multiple`."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _random_generator() -> torch.Generator:
    """Seeded by the system; the global random state is left alone."""
    rng = torch.Generator()
    rng.seed()
    return rng


def _to_output(results: list[torch.Tensor], output_type: str) -> Any:
    images = [image.cpu() for batch in results for image in batch]
    if output_type == "pt":
        return torch.stack(images)
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    if output_type == "np":
        return np.stack(arrays)
    return [Image.fromarray((array * 255).round().astype(np.uint8)) for array in arrays]
