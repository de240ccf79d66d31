"""Folders of photos: listing, checking sizes, reading with a bounded memory of decoded photos."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from gdpo_sr.types import DatasetError, ImageError
from gdpo_sr.utils.image_io import image_size, list_images, read_image

logger = logging.getLogger("gdpo_sr")

CACHE_BYTES = 1_000_000_000

StrPath = str | os.PathLike[str]
Folders = StrPath | Sequence[StrPath]
"""One folder of pictures, or several whose pictures are put together."""


def each_folder(folders: Folders) -> list[StrPath]:
    """The folders, one or several, in order.

    Raises:
        DatasetError: none, or a folder twice, whose pictures would count twice.
    """
    several = [folders] if isinstance(folders, (str, os.PathLike)) else list(folders)
    if not several:
        raise DatasetError("the list of folders of photos is empty: name one")
    seen: dict[str, StrPath] = {}
    for folder in several:
        real = os.path.realpath(folder)
        for other, name in seen.items():
            if os.path.commonpath([real, other]) in (real, other):
                raise DatasetError(
                    f"the folders {name} and {folder} hold the same photos: name only one of them"
                )
        seen[real] = folder
    return several


def list_photos(folder: StrPath, recursive: bool = False) -> list[Path]:
    """Sorted paths of the pictures in `folder`, of any format of `picture_file`.

    Raises:
        DatasetError: the folder is missing or holds no picture.
    """
    if not os.path.isdir(folder) or not os.fspath(folder):
        raise DatasetError(f"no such folder of photos: {folder}; correct the path")
    return list_images(folder, recursive)


def usable_photos(folders: Folders, smallest: int) -> list[Path]:
    """Photos with a readable header and sides of `smallest` px or more; others are logged.

    The photos of several folders come one folder after the other.

    Raises:
        DatasetError: a folder is missing or empty, or no photo is left.
    """
    paths = [p for folder in each_folder(folders) for p in list_photos(folder, recursive=True)]
    usable = [path for path in paths if readable_size(path, smallest) is not None]
    if not usable:
        raise DatasetError(
            f"none of the {len(paths)} pictures in {_named(folders)} is readable and at least "
            f"{smallest} px on both sides: add larger photos or lower gt_size"
        )
    return usable


def _named(folders: Folders) -> str:
    return ", ".join(map(str, each_folder(folders)))


def readable_size(path: Path, smallest: int) -> tuple[int, int] | None:
    """(H, W) from the header; None and a log line if unreadable or a side is below `smallest`."""
    try:
        height, width = image_size(path)
    except ImageError as error:
        logger.warning("skipped: %s", error)
        return None
    if min(height, width) < smallest:
        logger.warning("skipped: %s is %dx%d, limit %d px", path, width, height, smallest)
        return None
    return height, width


class PhotoStore:
    """Reads photos of a fixed list as uint8 and, with `cache`, keeps decoded ones.

    The memory limit of 1 GB is shared out among loader workers. A photo that cannot be decoded is
    logged once, even if several workers meet it.
    """

    def __init__(self, paths: list[Path], cache: bool) -> None:
        self.paths = paths
        self._cache: dict[int, Tensor] | None = {} if cache else None
        self._cached_bytes = 0
        self._is_broken = torch.zeros(len(paths), dtype=torch.bool).share_memory_()

    def read(self, index: int) -> Tensor | None:
        """(3, H, W) uint8, or None if the photo is broken."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        if self._is_broken[index]:
            return None
        try:
            photo = to_bytes(read_image(self.paths[index]))
        except ImageError as error:
            self._is_broken[index] = True
            logger.warning("skipped: %s", error)
            return None
        self._remember(index, photo)
        return photo

    def _remember(self, index: int, photo: Tensor) -> None:
        worker = get_worker_info()
        limit = CACHE_BYTES // (worker.num_workers if worker else 1)
        if self._cache is not None and self._cached_bytes + photo.numel() <= limit:
            self._cache[index] = photo
            self._cached_bytes += photo.numel()

    def __getstate__(self) -> dict[str, object]:
        """Workers get the shared record of broken photos, but not the decoded ones."""
        cache = None if self._cache is None else {}
        return {**self.__dict__, "_cache": cache, "_cached_bytes": 0}


def to_bytes(image: Tensor) -> Tensor:
    """uint8 levels of a picture in [0, 1]."""
    return (image * 255).round().to(torch.uint8)


def to_unit(photo: Tensor) -> Tensor:
    """float32 in [0, 1] of a uint8 picture."""
    return photo.float() / 255


def first_whole(
    stores: tuple[PhotoStore, ...], candidates: Iterator[int]
) -> tuple[int, tuple[Tensor, ...]]:
    """The first candidate index that every store can read, with its photos.

    Raises:
        DatasetError: every candidate is broken.
    """
    for index in candidates:
        photos = [photo for store in stores if (photo := store.read(index)) is not None]
        if len(photos) == len(stores):
            return index, tuple(photos)
    paths = stores[0].paths
    raise DatasetError(
        f"none of the {len(paths)} pictures such as {paths[0]} can be read any more: put them back "
        "or replace the damaged files, then go on by --auto_resume"
    )
