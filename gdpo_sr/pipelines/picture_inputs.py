"""What the pipeline takes: checks of its arguments, and pictures of any kind as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gdpo_sr.types import ImageError, OptionError
from gdpo_sr.utils.color_fix import COLOR_FIXES
from gdpo_sr.utils.image_io import read_image

Picture = str | Path | Image.Image | torch.Tensor | np.ndarray
OUTPUT_TYPES = ("pil", "np", "pt")
MAX_SCALE = 64


def check_scale(scale: float) -> None:
    """Raise OptionError for a size of the result that is none, or out of all proportion."""
    is_number = isinstance(scale, (int, float, np.number)) and not isinstance(scale, bool)
    if not is_number or not 0 < scale <= MAX_SCALE:
        raise OptionError(f"scale = {scale!r}: use a number above 0 and at most {MAX_SCALE}")


def _check_whole(name: str, value: object, smallest: int) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < smallest:
        raise OptionError(f"{name} = {value!r}: use {smallest} or more, a whole number")


def check_arguments(
    scale: float,
    num_candidates: int,
    color_fix: str,
    output_type: str,
    tile: int | None,
    tile_overlap: int,
    batch_size: int = 1,
) -> None:
    """Raise OptionError for what `OneStepSRPipeline.__call__` cannot take, without a model."""
    check_scale(scale)
    _check_whole("num_candidates", num_candidates, 1)
    _check_whole("batch_size", batch_size, 1)
    _check_whole("tile_overlap", tile_overlap, 0)
    if tile is not None:
        _check_whole("tile", tile, 0)
    if color_fix not in COLOR_FIXES:
        raise OptionError(f"color_fix = {color_fix!r}: use one of {', '.join(COLOR_FIXES)}")
    if output_type not in OUTPUT_TYPES:
        raise OptionError(f"output_type = {output_type!r}: use one of {', '.join(OUTPUT_TYPES)}")
    if tile and not 0 <= 2 * tile_overlap < tile:
        raise OptionError(
            f"tile = {tile}, tile_overlap = {tile_overlap}: the overlap must be 0 or more "
            "and the tile must exceed twice the overlap"
        )


def check_kinds(generator: object, prompt: object, size: object) -> None:
    """Raise OptionError for lists: there is one source of noise and one prompt for all pictures;
    and for a size that is no pair.
    """
    if not isinstance(generator, (torch.Generator, type(None))):
        raise OptionError(
            f"generator = a {type(generator).__name__}: give one torch.Generator for all pictures"
        )
    if not isinstance(prompt, (str, type(None))):
        raise OptionError(f"prompt = a {type(prompt).__name__}: give one text for all pictures")
    if size is not None:
        if not isinstance(size, (tuple, list)) or len(size) != 2:
            raise OptionError(f"size = {size!r}: give (height, width) in pixels")
        _check_whole("size[0]", size[0], 1)
        _check_whole("size[1]", size[1], 1)


def to_tensors(image: Picture | list[Picture]) -> list[torch.Tensor]:
    """Pictures as float tensors (3, H, W) in [0, 1].

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
    if isinstance(image, (str, Path)):
        return read_image(image)  # upright, which PIL's own opening is not
    if isinstance(image, Image.Image):
        image = _pil_to_array(image)
    if not isinstance(image, (np.ndarray, torch.Tensor)):
        raise ImageError(
            f"a picture cannot be a {type(image).__name__}: give a path, a PIL picture, a tensor, "
            "an array, or a list of these"
        )
    is_text = isinstance(image, np.ndarray) and image.dtype.kind not in "biufc"
    if is_text or (isinstance(image, torch.Tensor) and image.is_meta):
        raise ImageError(f"a picture of type {image.dtype} has no numbers: give RGB in [0, 1]")
    if image.dtype in (np.uint8, torch.uint8):
        image = image / np.float32(255) if isinstance(image, np.ndarray) else image / 255
    if isinstance(image, np.ndarray):
        # (H, W, 3) -> (3, H, W); an array of other dimensions fails the check below
        image = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
    good_shape = image.ndim == 3 and image.shape[0] == 3 and image.numel() > 0
    if not good_shape or not image.is_floating_point():
        raise ImageError(
            f"a picture of shape {tuple(image.shape)} and type {image.dtype} cannot be used: "
            "give RGB floats in [0, 1] or uint8, (3, H, W) as a tensor or (H, W, 3) as an array"
        )
    low, high = image.min().item(), image.max().item()
    if not (low >= 0 and high <= 1):
        raise ImageError(f"a picture has values from {low:g} to {high:g}: scale it to [0, 1]")
    return image


def _pil_to_array(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        raise ImageError(
            f"a PIL picture of mode {image.mode} cannot be used: convert it to 8-bit RGB, "
            "or read the file with gdpo_sr.utils.image_io.read_image"
        )
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255
