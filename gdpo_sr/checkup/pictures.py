"""The folders of photos that an options file names."""

from __future__ import annotations

from collections.abc import Iterator

from gdpo_sr.checkup.finding import Finding
from gdpo_sr.config.schema import Options
from gdpo_sr.data.folder import each_folder, list_photos
from gdpo_sr.types import DatasetError, ImageError
from gdpo_sr.utils.image_io import image_size


def data_folders(options: Options) -> Iterator[Finding]:
    """Pictures of training and validation: how many, how large, which cannot be used."""
    for part in ("train", "val"):
        section = getattr(options.datasets, part)
        for key in ("dataroot_gt", "dataroot_lq"):
            folders = getattr(section, key)
            share = options.scale if key == "dataroot_lq" else 1
            smallest = (section.gt_size or 1) // share
            name = f"data {part}" + (" LR" if share > 1 else "")
            for folder in [] if folders is None else each_folder(folders):
                yield _folder(name, str(folder), smallest)


def _folder(name: str, folder: str, smallest: int) -> Finding:
    try:
        paths = list_photos(folder, recursive=True)
    except DatasetError as error:
        return Finding(name, "bad", str(error))
    sizes, bad = [], []
    for path in paths:
        try:
            sizes.append(image_size(path))
        except ImageError:
            bad.append(path.name)
    small = sum(min(size) < smallest for size in sizes)
    if small == len(sizes):
        text = f"none of {len(paths)} pictures in '{folder}' is readable and {smallest} px or more"
        return Finding(name, "bad", f"{text}: add larger ones, or lower gt_size")
    sides = [min(size) for size in sizes]
    text = f"{len(paths)} pictures in '{folder}', shorter side {min(sides)} to {max(sides)} px"
    if not bad and not small:
        return Finding(name, "ok", text)
    parts = [f"{small} below {smallest} px"] if small else []
    parts += [f"{len(bad)} unreadable, such as {bad[0]}"] if bad else []
    return Finding(name, "note", f"{text}; {' and '.join(parts)} are left out")
