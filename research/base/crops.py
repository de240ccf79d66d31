"""Enlarged crops side by side: LR, bases, pictures of others, original.

    python research/base/crops.py OUT old=mini new=FOLDER --bench BENCH --pictures OTHER=FOLDER

Writes OUT/val.png and, with --bench, OUT/realsr.png and OUT/drealsr.png: a row for each crop of
crops.yml, enlarged twice (LR eight times) by bicubic interpolation. Pictures of benchmarks may not
be published: those sheets are for the eye alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from base_methods import (
    SCALE,
    Method,
    Pairs,
    add_arguments,
    load_models,
    model,
    named,
    pictures,
    read_sets,
)
from tqdm import tqdm

from gdpo_sr.cli import run_main
from gdpo_sr.config.yaml_file import read_yaml
from gdpo_sr.types import OptionError
from gdpo_sr.utils.image_io import read_image
from gdpo_sr.utils.panels import write_side_by_side
from gdpo_sr.utils.resample import enlarge

PLACES = Path(__file__).with_name("crops.yml")
SIDE, ZOOM = 160, 2

Places = dict[str, dict[str, list[tuple[int, int]]]]
"""Left and top of the crops in HR pixels, by set and stem."""

Row = dict[str, torch.Tensor]
"""Crops by caption."""


def read_places(file: Path) -> Places:
    """crops.yml, checked.

    Raises:
        OptionError: a place is not a pair of multiples of SCALE that are at least 0.
    """
    places = read_yaml(file)
    for name, stems in places.items():
        for stem, crops in stems.items():
            for crop in crops:
                if len(crop) != 2 or any(value < 0 or value % SCALE for value in crop):
                    raise OptionError(
                        f"{file}: {name}: {stem}: {crop}: write [left, top], multiples of {SCALE}"
                    )
    return places


def cut(image: torch.Tensor, left: int, top: int, side: int, zoom: int) -> torch.Tensor:
    """A square crop of (3, H, W), enlarged to (3, side * zoom, side * zoom).

    Raises:
        OptionError: the crop leaves the picture.
    """
    if left + side > image.shape[2] or top + side > image.shape[1]:
        raise OptionError(f"crop of {side} px at [{left}, {top}] leaves {tuple(image.shape[1:])}")
    return enlarge(image[:, top : top + side, left : left + side], zoom)


def row(stem: str, whole: dict[str, torch.Tensor], lr: torch.Tensor, place: tuple[int, int]) -> Row:
    """One row of the sheet: name -> crop; `whole` are pictures of HR size."""
    left, top = place
    small = cut(lr, left // SCALE, top // SCALE, SIDE // SCALE, ZOOM * SCALE)
    crops = {name: cut(image, left, top, SIDE, ZOOM) for name, image in whole.items()}
    return {f"{stem}: LR": small, **crops}


def sheet(
    name: str,
    pairs: Pairs,
    methods: dict[str, Method],
    crops: dict[str, list[tuple[int, int]]],
) -> list[Row]:
    """All rows of a set; pictures without a crop are not restored."""
    rows = []
    for hr_file, lr_file in tqdm([p for p in pairs if p[0].stem in crops], desc=name):
        whole = {key: restore(name, lr_file)[0] for key, restore in methods.items()}
        whole["original"] = read_image(hr_file)
        lr = read_image(lr_file)
        rows += [row(hr_file.stem, whole, lr, place) for place in crops[hr_file.stem]]
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Write the sheets; returns the exit status."""
    parser = argparse.ArgumentParser(description="Enlarged crops of bases side by side.")
    parser.add_argument("out", type=Path, help="folder")
    add_arguments(parser)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    places = read_places(PLACES)
    methods = {name: model(pipe, 1) for name, pipe in load_models(args.models).items()}
    methods |= {name: pictures(Path(folder)) for name, folder in named(args.pictures).items()}
    for name, pairs in read_sets(args.photos, args.bench).items():
        rows = sheet(name, pairs, methods, places.get(name, {}))
        if rows:
            print(write_side_by_side(args.out / f"{name}.png", rows))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
