"""Photos for online degradation: random crops of a folder, addressed by a global draw number."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from gdpo_sr.data.captions import Captions
from gdpo_sr.data.draws import crop, generator_for, photos_of_draw, random_corner, random_flips
from gdpo_sr.data.folder import Folders, PhotoStore, first_whole, to_unit, usable_photos


class OnlineDataset(Dataset[dict[str, Any]]):
    """HR crops; item `draw` depends on (seed, draw) alone, whatever the workers and the restart.

    Args:
        folders: one or several folders of photos, also in sub-folders.
        gt_size: side of the crops in pixels.
        seed: of photo order, crops and flips.
        use_hflip: flip left-right half of the time.
        use_rot: also flip up-down and transpose, each half of the time.
        cache: keep decoded photos in memory (1 GB at most).
        captions: gives those of the photos; None: items have none.

    Raises:
        DatasetError: a folder is missing, empty, or without a usable photo of `gt_size`.
    """

    def __init__(
        self,
        folders: Folders,
        gt_size: int,
        seed: int,
        use_hflip: bool = True,
        use_rot: bool = False,
        cache: bool = True,
        captions: Captions | None = None,
    ) -> None:
        self.gt_size = gt_size
        self.seed = seed
        self.use_hflip = use_hflip
        self.use_rot = use_rot
        self._photos = PhotoStore(usable_photos(folders, gt_size), cache)
        self._captions = None if captions is None else captions(self._photos.paths)

    def __len__(self) -> int:
        """Photos in one epoch; draw numbers go on beyond it."""
        return len(self._photos.paths)

    def __getitem__(self, draw: int) -> dict[str, Any]:
        """`hr` (3, gt_size, gt_size) float32 RGB in [0, 1], `name` of the photo, `draw`; and
        `caption` if there are any.
        """
        candidates = photos_of_draw(self.seed, draw, len(self))
        index, (photo,) = first_whole((self._photos,), candidates)
        generator = generator_for("crop", self.seed, draw)
        top, left = random_corner(photo.shape[-2], photo.shape[-1], self.gt_size, generator)
        patch = crop(photo, top, left, self.gt_size)
        (patch,) = random_flips([patch], self.use_hflip, self.use_rot, generator)
        item = {"hr": to_unit(patch), "name": self._photos.paths[index].stem, "draw": draw}
        return item if self._captions is None else {**item, "caption": self._captions[index]}
