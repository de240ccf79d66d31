"""OneStepSRPipeline: LR pictures in, restored pictures out, in diffusers' conventions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import nn

from gdpo_sr.checkpoints.lora import lora_parameters
from gdpo_sr.checkpoints.model_folder import components_of, write_model
from gdpo_sr.generators.base_folder import Base
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.one_step import OneStepScheduler
from gdpo_sr.pipelines.adapters import AdapterMethods
from gdpo_sr.pipelines.noise_field import draw_seed
from gdpo_sr.pipelines.picture_inputs import Picture, check_arguments, check_kinds, to_tensors
from gdpo_sr.pipelines.restorer import RestoreOptions, Restorer, RestoreReport, RowSink
from gdpo_sr.types import CheckpointError, OptionError
from gdpo_sr.utils.resample import Frame, frame_for, too_large


@dataclass
class OneStepSROutput(BaseOutput):
    """`images`: PIL pictures, a float array (N, H, W, 3) or a tensor (N, 3, H, W) in [0, 1].

    Candidates of one picture follow each other.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor


class OneStepSRPipeline(AdapterMethods, DiffusionPipeline):
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
        self._given: dict[str, int | None] = {}  # timesteps that a LoRA does not replace
        self._before, self._whole = None, {}
        self.register_modules(
            unet=unet, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )
        self.register_to_config(prompt=prompt)
        self.generator = build_generator({**self.components, "prompt": prompt})

    def __setattr__(self, name: str, value: Any) -> None:
        """A part that is exchanged (``pipe.scheduler = ...``) is exchanged in the generator too."""
        super().__setattr__(name, value)
        if "generator" in vars(self) and name in self.components:
            text_encoder = self.text_encoder or self.generator.prompt_encoder.whole_text_encoder()
            parts = {**self.components, "text_encoder": text_encoder}
            dial = self.generator.dial
            self.generator = build_generator({**parts, "prompt": self.config.prompt})
            self.generator.dial = dial

    @classmethod
    def from_pretrained(
        cls,
        base: Base,
        revision: str | None = None,
        torch_dtype: torch.dtype = torch.float32,
        t_add: int | None = None,
        t_diff: int | None = None,
        unet: str | Path | None = None,
        vae: str | Path | None = None,
    ) -> OneStepSRPipeline:
        """Load ``"mini"``, a folder in diffusers layout, or a hub id; or the first of several.

        Only a hub id uses the network. `unet` and `vae` are folders of parts that replace the
        base's, as released for merged models.

        Raises:
            CheckpointError: the base is missing, incomplete or cannot be reached.
        """
        pipe = cls(**load_components(base, revision, t_add, t_diff, torch_dtype, unet, vae))
        pipe._given = {"t_add": t_add, "t_diff": t_diff}
        return pipe

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the model in diffusers layout, prompt and timesteps included.

        Raises:
            CheckpointError: a LoRA is loaded, which this layout has no place for.
        """
        if lora_parameters(self.unet):
            raise CheckpointError(
                f"'{save_directory}': a model with a LoRA cannot be saved as one model; "
                "call pipe.merge_lora_weights() first, or gdpo_sr.checkpoints.lora.save_lora for "
                "the LoRA alone"
            )
        parts = {**components_of(self.generator), "prompt": self.config.prompt}
        write_model(parts, Path(save_directory))

    def release_text_encoder(self, prompts: Sequence[str], reload: Callable[[], nn.Module]) -> None:
        """Compute the embeddings of `prompts` and drop the text encoder from memory.

        `reload` gives it again: for a moment where another prompt comes, and for good where the
        model is saved. Call it last: what is loaded or cast afterwards is not embedded again.
        """
        self.generator.prompt_encoder.release(prompts, reload)
        super().__setattr__("text_encoder", None)

    def compile(self) -> None:
        """Compile the networks by `torch.compile`, which happens when they first run."""
        Restorer(self.generator, self._device_of_passes()).compile()

    def _device_of_passes(self) -> torch.device:
        """Where the networks compute; weights that wait elsewhere for their turn are asked about at
        length.
        """
        device = next(self.unet.parameters()).device
        return device if device.type == "cuda" else self._execution_device

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
        batch_size: int = 1,
        size: tuple[int, int] | None = None,
        output_type: str = "pil",
    ) -> OneStepSROutput:
        """Restore one picture or several.

        Args:
            image: path of a file (EXIF orientation is applied), PIL picture (it is not), array
                (H, W, 3) or (N, H, W, 3), tensor (3, H, W) or (N, 3, H, W), RGB in [0, 1] or
                uint8, or a list of these.
            scale: output size divided by input size; an output side is round(scale * side).
            generator: source of the injected noise; None draws from a fresh, random one.
            t_add: noise level at inference, 0 .. 999: larger is more realistic, smaller more
                faithful; -1 is no noise, None takes the saved level.
            num_candidates: different outputs per picture (G); they follow each other.
            prompt: text for the UNet; None takes the base's own.
            color_fix: ``wavelet`` takes the low frequencies of the input, ``adain`` the mean and
                deviation of its channels, ``none`` leaves the colours.
            tile: side of a tile in latent pixels; 0 restores the picture whole, None does so up
                to a moderate size. Smaller tiles are tried when memory runs out.
            tile_overlap: latent pixels shared by neighbouring tiles.
            batch_size: tiles, of one picture or of pictures of one size, per forward pass.
            size: (H, W) of the output instead of `scale`; the picture is enlarged until it covers
                it, and cropped around the centre.
            output_type: ``pil``, ``np`` or ``pt``.

        Raises:
            OptionError: an argument is outside its range.
            ImageError: a picture cannot be used, or the model gives no finite result for it.
        """
        # 1. Check
        check_arguments(
            scale, num_candidates, color_fix, output_type, tile, tile_overlap, batch_size
        )
        check_kinds(generator, prompt, size)
        options = RestoreOptions(t_add, prompt, color_fix, tile, tile_overlap, batch_size)
        pictures = to_tensors(image)
        frames = [frame_for(*picture.shape[-2:], scale, size) for picture in pictures]
        _check_sizes(frames, output_type)
        # 2. Noise: a seed for each picture and candidate
        rng = _random_generator() if generator is None else generator
        seeds = [[draw_seed(rng) for _ in range(num_candidates)] for _ in pictures]
        # 3. Restore, pictures of one size that follow each other together
        results: list[Any] = []
        for start, stop in _equal_runs(pictures, batch_size):
            canvas = _Canvas(stop - start, num_candidates, frames[start], output_type)
            self.restore_into(
                canvas.put, pictures[start:stop], frames[start], seeds[start:stop], options
            )
            results += canvas.images()
        # 4. Output
        return OneStepSROutput(images=_stack(results, output_type))

    @torch.no_grad()
    def restore_into(
        self,
        sink: RowSink,
        pictures: Sequence[torch.Tensor],
        frame: Frame,
        seeds: Sequence[Sequence[int]],
        options: RestoreOptions,
    ) -> RestoreReport:
        """`Restorer.restore_into` with the saved prompt."""
        prompt = self.config.prompt if options.prompt is None else options.prompt
        restorer = Restorer(self.generator, self._device_of_passes())
        return restorer.restore_into(sink, pictures, frame, seeds, replace(options, prompt=prompt))


class _Canvas:
    """Collects rows of P pictures with G candidates as what the caller asked for."""

    def __init__(self, pictures: int, candidates: int, frame: Frame, output_type: str) -> None:
        shape = (pictures * candidates, 3, frame.height, frame.width)
        self._kind = output_type
        try:
            self._rows = torch.empty(shape, dtype=torch.uint8 if output_type == "pil" else None)
        except RuntimeError as error:
            raise too_large(frame) from error

    def put(self, top: int, rows: torch.Tensor) -> None:
        flat = rows.flatten(0, 1)
        exact = (flat * 255).round() if self._kind == "pil" else flat
        self._rows[:, :, top : top + rows.shape[-2]] = exact

    def images(self) -> list[Any]:
        if self._kind == "pt":
            return list(self._rows)
        arrays = [image.permute(1, 2, 0).numpy() for image in self._rows]
        return [Image.fromarray(a) for a in arrays] if self._kind == "pil" else arrays


def _stack(results: list[Any], output_type: str) -> Any:
    if output_type == "pil":
        return results
    return torch.stack(results) if output_type == "pt" else np.stack(results)


def _equal_runs(pictures: Sequence[torch.Tensor], limit: int) -> list[tuple[int, int]]:
    """Ranges of neighbours of one size, at most `limit` long."""
    runs: list[tuple[int, int]] = []
    for index, picture in enumerate(pictures):
        start = runs[-1][0] if runs else 0
        same = index > 0 and picture.shape == pictures[index - 1].shape
        if same and index - start < limit:
            runs[-1] = (start, index + 1)
        else:
            runs.append((index, index + 1))
    return runs


def _check_sizes(frames: Sequence[Frame], output_type: str) -> None:
    sizes = sorted({(frame.height, frame.width) for frame in frames})
    if len(sizes) > 1 and output_type != "pil":
        shown = ", ".join(f"{width}x{height}" for height, width in sizes[:3])
        raise OptionError(
            f"output_type = {output_type!r} stacks pictures of one size, these become {shown}"
            f"{', ...' if len(sizes) > 3 else ''}: use 'pil' or one call per size"
        )


def _random_generator() -> torch.Generator:
    """Seeded by the system; the global random state is left alone."""
    rng = torch.Generator()
    rng.seed()
    return rng
