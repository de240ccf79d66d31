"""Fixed pictures for validation: the same pixels at every call, whatever ran before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from gdpo_sr.config.degradation import DegradationOptions
from gdpo_sr.data.captions import Captions
from gdpo_sr.data.degradations import RealESRGANDegradation
from gdpo_sr.data.draws import generator_for
from gdpo_sr.data.folder import Folders, PhotoStore, to_unit, usable_photos
from gdpo_sr.data.paired_dataset import find_pairs
from gdpo_sr.types import DatasetError


def make_validation_set(
    folders_hr: Folders,
    folders_lr: Folders | None,
    scale: int,
    gt_size: int | None,
    seed: int = 0,
    options: DegradationOptions | None = None,
    captions: Captions | None = None,
) -> list[dict[str, Any]]:
    """Centre crops in the order of their names, each with its LR picture.

    Args:
        folders_hr: HR pictures; unreadable or too small ones are logged and left out.
        folders_lr: given LR pictures; None degrades photo i once with a generator seeded by (seed,
            i).
        scale: HR size divided by LR size.
        gt_size: side of the HR crops in pixels; None takes whole pictures (cut to a multiple of
            `scale`).
        seed, options: of the degradation.
        captions: gives those of the photos that are degraded, or of the given LR pictures.

    Returns:
        dicts of `hr` (3, H, W), `lr` (3, H / scale, W / scale), float32 RGB in [0, 1] on the CPU,
        and `name`; with captions also `caption`.

    Raises:
        DatasetError: missing or empty folder, wrong pairs, `gt_size` not divisible by `scale`, or
            nothing usable.
    """
    if gt_size is not None and gt_size % scale:
        raise DatasetError(f"gt_size {gt_size} is not divisible by scale {scale}: change one")
    if folders_lr is None:
        pairs, sources = _degraded(folders_hr, scale, gt_size, seed, options)
    else:
        pairs, sources = _given(folders_hr, folders_lr, scale, gt_size)
    if captions is not None:
        words = captions(sources)
        pairs = [{**pair, "caption": text} for pair, text in zip(pairs, words, strict=True)]
    if not pairs:
        raise DatasetError(f"no picture in {folders_hr} can be decoded: replace the damaged files")
    return pairs


def _degraded(
    folders: Folders, scale: int, gt_size: int | None, seed: int, options: DegradationOptions | None
) -> tuple[list[dict[str, Any]], list[Path]]:
    """Pairs, and the photos that they were made from."""
    degrade = RealESRGANDegradation(options, scale)
    photos = PhotoStore(usable_photos(folders, gt_size or degrade.smallest_size()), cache=False)
    pairs, sources = [], []
    for index, path in enumerate(photos.paths):
        photo = photos.read(index)
        if photo is None:
            continue
        top, left, height, width = _centre_box(photo, gt_size, scale)
        hr = to_unit(photo[:, top : top + height, left : left + width])
        lr = degrade(hr[None], generator_for("validation", seed, index))[0]
        pairs.append({"hr": hr, "lr": lr, "name": path.stem})
        sources.append(path)
    return pairs, sources


def _given(
    folders_hr: Folders, folders_lr: Folders, scale: int, gt_size: int | None
) -> tuple[list[dict[str, Any]], list[Path]]:
    """Pairs, and their LR files."""
    paths = find_pairs(folders_hr, folders_lr, scale, gt_size or scale)
    hr_photos = PhotoStore([hr for hr, _ in paths], cache=False)
    lr_photos = PhotoStore([lr for _, lr in paths], cache=False)
    pairs, sources = [], []
    for index, (path, lr_path) in enumerate(paths):
        hr, lr = hr_photos.read(index), lr_photos.read(index)
        if hr is None or lr is None:
            continue
        top, left, height, width = _centre_box(lr, gt_size // scale if gt_size else None)
        lr = lr[:, top : top + height, left : left + width]
        hr = hr[:, top * scale : (top + height) * scale, left * scale : (left + width) * scale]
        pairs.append({"hr": to_unit(hr), "lr": to_unit(lr), "name": path.stem})
        sources.append(lr_path)
    return pairs, sources


def _centre_box(image: Tensor, size: int | None, multiple: int = 1) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the centre crop; without `size` of the largest multiple."""
    height, width = image.shape[-2:]
    crop_height = size or height - height % multiple
    crop_width = size or width - width % multiple
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width
