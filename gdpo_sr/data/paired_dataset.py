"""Folders of given LR and HR pictures, paired by their path without suffix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from gdpo_sr.data.captions import Captions
from gdpo_sr.data.draws import crop, generator_for, photos_of_draw, random_corner, random_flips
from gdpo_sr.data.folder import (
    Folders,
    PhotoStore,
    StrPath,
    each_folder,
    first_whole,
    list_photos,
    readable_size,
    to_unit,
)
from gdpo_sr.types import DatasetError
from gdpo_sr.utils.image_io import read_image


class PairedDataset(Dataset[dict[str, Any]]):
    """LR/HR pairs: whole pictures by index, or with `gt_size` aligned random crops by draw number.

    Args:
        folders_hr: one or several folders of HR pictures, also in sub-folders.
        folders_lr: as many of LR pictures under the same names (the suffix may differ).
        scale: HR size divided by LR size.
        gt_size: side of the HR crops in pixels; None gives whole pictures.
        seed, use_hflip, use_rot, cache: as for `OnlineDataset`; used for crops only (1 GB
            for each folder).
        captions: gives those of the LR pictures; None: items have none.

    Raises:
        DatasetError: missing or empty folder, picture without partner, pair of the wrong ratio, or
            no usable pair.
    """

    def __init__(
        self,
        folders_hr: Folders,
        folders_lr: Folders,
        scale: int,
        gt_size: int | None = None,
        seed: int = 0,
        use_hflip: bool = True,
        use_rot: bool = False,
        cache: bool = True,
        captions: Captions | None = None,
    ) -> None:
        if gt_size is not None and gt_size % scale:
            raise DatasetError(f"gt_size {gt_size} is not divisible by scale {scale}: change one")
        self.scale = scale
        self.gt_size = gt_size
        self.seed = seed
        self.use_hflip = use_hflip
        self.use_rot = use_rot
        pairs = find_pairs(folders_hr, folders_lr, scale, gt_size or scale)
        self._hr = PhotoStore([hr for hr, _ in pairs], cache)
        self._lr = PhotoStore([lr for _, lr in pairs], cache)
        self._captions = None if captions is None else captions(self._lr.paths)

    def __len__(self) -> int:
        return len(self._hr.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`hr` (3, H, W), `lr` (3, H / scale, W / scale) in [0, 1], `name`; crops also `draw`;
        and `caption` if there are any.

        Raises:
            ImageError: a whole picture cannot be decoded (for crops the next pair is taken).
        """
        if self.gt_size is not None:
            return self._random_crop(index, self.gt_size)
        if index >= len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        path = self._hr.paths[index]
        hr, lr = read_image(path), read_image(self._lr.paths[index])
        return self._with_caption(index, {"hr": hr, "lr": lr, "name": path.stem})

    def _with_caption(self, index: int, item: dict[str, Any]) -> dict[str, Any]:
        return item if self._captions is None else {**item, "caption": self._captions[index]}

    def _random_crop(self, draw: int, gt_size: int) -> dict[str, Any]:
        candidates = photos_of_draw(self.seed, draw, len(self))
        index, (hr, lr) = first_whole((self._hr, self._lr), candidates)
        generator = generator_for("crop", self.seed, draw)
        lr_size = gt_size // self.scale
        top, left = random_corner(lr.shape[-2], lr.shape[-1], lr_size, generator)
        crops = [
            crop(hr, top * self.scale, left * self.scale, gt_size),
            crop(lr, top, left, lr_size),
        ]
        hr, lr = random_flips(crops, self.use_hflip, self.use_rot, generator)
        name = self._hr.paths[index].stem
        item = {"hr": to_unit(hr), "lr": to_unit(lr), "name": name, "draw": draw}
        return self._with_caption(index, item)


def find_pairs(
    folders_hr: Folders, folders_lr: Folders, scale: int, smallest: int
) -> list[tuple[Path, Path]]:
    """(HR, LR) paths of equal name; unreadable or too small pairs are logged and left out.

    Of several folders each of HR pictures is paired with the one of LR pictures at its place.

    Raises:
        DatasetError: missing partner, wrong ratio, two files of one name, or no usable pair.
    """
    high, low = each_folder(folders_hr), each_folder(folders_lr)
    if len(high) != len(low):
        raise DatasetError(
            f"{len(high)} folders of HR pictures, {len(low)} of LR pictures: give one for each"
        )
    pairs = [pair for folders in zip(high, low, strict=True) for pair in _named_pairs(*folders)]
    usable = [pair for pair in pairs if _is_usable(*pair, scale, smallest)]
    if not usable:
        raise DatasetError(
            f"none of the {len(pairs)} pairs in {', '.join(map(str, high))} is readable with HR "
            f"sides of {smallest} px at least: add larger pictures or lower gt_size"
        )
    return usable


def _named_pairs(folder_hr: StrPath, folder_lr: StrPath) -> list[tuple[Path, Path]]:
    """Pairs of equal name of two folders, in the order of their names."""
    hr_by_name, lr_by_name = _by_name(Path(folder_hr)), _by_name(Path(folder_lr))
    for names, others, folder in (
        (hr_by_name, lr_by_name, folder_lr),
        (lr_by_name, hr_by_name, folder_hr),
    ):
        lonely = sorted(names.keys() - others.keys())
        if lonely:
            raise DatasetError(
                f"{names[lonely[0]]} has no partner named '{lonely[0]}' in {folder} "
                f"({len(lonely)} such): add it or remove the file"
            )
    return [(hr_by_name[name], lr_by_name[name]) for name in sorted(hr_by_name)]


def _by_name(folder: Path) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for path in list_photos(folder, recursive=True):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in paths:
            raise DatasetError(f"{paths[name]} and {path.name} share a name: rename one")
        paths[name] = path
    return paths


def _is_usable(hr: Path, lr: Path, scale: int, smallest: int) -> bool:
    hr_size, lr_size = readable_size(hr, smallest), readable_size(lr, 1)
    if hr_size is None or lr_size is None:
        return False
    if hr_size != (lr_size[0] * scale, lr_size[1] * scale):
        raise DatasetError(
            f"{hr} is {hr_size[1]}x{hr_size[0]} but {lr} is {lr_size[1]}x{lr_size[0]}: "
            f"HR must be exactly {scale} times LR ({lr_size[1] * scale}x{lr_size[0] * scale}); "
            f"crop one of them or change scale"
        )
    return True
