"""What a base is compared on and with: sets of pairs, and ways to restore their LR pictures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.types import DatasetError, OptionError
from gdpo_sr.utils.image_io import list_images, read_image
from gdpo_sr.utils.resample import enlarge

EXAMPLE = Path(__file__).resolve().parents[2] / "datasets" / "example"
BENCHES = ("realsr", "drealsr")
SCALE = 4

Pairs = list[tuple[Path, Path]]
"""HR and LR files."""
Method = Callable[[str, Path], torch.Tensor]
"""Set and LR file -> restored pictures (N, 3, H, W) in [0, 1], one for each noise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is restored, and by what."""
    parser.add_argument(
        "models", nargs="*", default=["mini"], metavar="[NAME=]MODEL", help="bases (mini)"
    )
    parser.add_argument(
        "--pictures",
        nargs="+",
        default=[],
        metavar="NAME=FOLDER",
        help="restored by others: FOLDER/{val,realsr,drealsr}/ with the names of the LR pictures",
    )
    parser.add_argument("--photos", type=Path, default=EXAMPLE, help="folder of val and val_lr")
    parser.add_argument("--bench", type=Path, help="folder of {realsr,drealsr}/{HR,LR}")
    parser.add_argument("--threads", type=int, default=1, help="pictures at a time")


def read_sets(photos: Path, bench: Path | None, limit: int | None = None) -> dict[str, Pairs]:
    """Pairs by set: the example photos as "val", then those of the benchmark."""
    sets = {"val": read_pairs(photos / "val", photos / "val_lr", limit)}
    for name in BENCHES if bench else ():
        sets[name] = read_pairs(bench / name / "HR", bench / name / "LR", limit)
    return sets


def read_pairs(hr_folder: Path, lr_folder: Path, limit: int | None) -> Pairs:
    """Files of equal stems, sorted.

    Raises:
        DatasetError: a folder is missing or empty, or a picture has no partner.
    """
    lr = {path.stem: path for path in list_images(lr_folder)}
    hr = list_images(hr_folder)[:limit]
    if missing := [path.name for path in hr if path.stem not in lr]:
        raise DatasetError(f"{lr_folder}: no LR picture for {missing[0]}; names must be equal")
    return [(path, lr[path.stem]) for path in hr]


def bicubic(name: str, lr: Path) -> torch.Tensor:
    """The LR picture enlarged."""
    return enlarge(read_image(lr), SCALE)[None]


def model(pipe: OneStepSRPipeline, noises: int) -> Method:
    """A base, with as many noises, the same for every picture."""

    def restore(name: str, lr: Path) -> torch.Tensor:
        rng = torch.Generator().manual_seed(0)
        picture = read_image(lr)
        return pipe(picture, generator=rng, num_candidates=noises, output_type="pt").images

    return restore


def pictures(folder: Path) -> Method:
    """Pictures that lie in `folder`, restored by something else.

    Raises:
        DatasetError: when called, if the picture is not there.
    """

    def find(name: str, lr: Path) -> torch.Tensor:
        found = [path for path in list_images(folder / name) if path.stem == lr.stem]
        if not found:
            raise DatasetError(f"{folder / name}: no picture {lr.stem}; names are those of LR")
        return read_image(found[0])[None]

    return find


def named(items: Iterable[str], bare: bool = False) -> dict[str, str]:
    """NAME=VALUE items as a mapping; `bare`: a VALUE alone is its own name.

    Raises:
        OptionError: an item without a name, or a name given twice.
    """
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and value if equals else bare):
            raise OptionError(f"{item!r}: write NAME=FOLDER")
        if name in found:
            raise OptionError(f"{item!r}: the name {name!r} is given twice")
        found[name] = value if equals else item
    return found


def load_models(items: Sequence[str]) -> dict[str, OneStepSRPipeline]:
    """The bases of the command line by name."""
    return {
        name: OneStepSRPipeline.from_pretrained(folder)
        for name, folder in named(items, bare=True).items()
    }
