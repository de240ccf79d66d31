"""A blind comparison: rows of two restorations, left and right by lot, beside the original.

    python research/blind_sheet.py make SHEET --first BASE --second TUNED --original HR
    python research/blind_sheet.py count SHEET ANSWERS

`make` writes SHEET/rows_1.png and so on, and SHEET/key.json, which says what stood where: do not
open it before you have judged. ANSWERS is a text file with one word a row, `left`, `right` or
`same`. `count` says how often each was picked, and how likely a result so uneven is by tossing
coins. Crops are where the original has most texture, half of them, and at random.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from gdpo_sr.cli import run_main
from gdpo_sr.types import OptionError
from gdpo_sr.utils.image_io import read_image
from gdpo_sr.utils.panels import write_side_by_side
from gdpo_sr.utils.resample import enlarge
from gdpo_sr.writer import write_file

SIDE, ZOOM, ROWS = 128, 2, 6
"""Of a crop in pixels, its enlargement, and rows a sheet."""
ANSWERS = ("left", "right", "same")


def place(original: torch.Tensor, textured: bool, rng: torch.Generator) -> tuple[int, int]:
    """Top and left of a crop of (3, H, W)."""
    height, width = original.shape[1:]
    if not textured:
        free = (max(side - SIDE, 0) + 1 for side in (height, width))
        top, left = (int(torch.randint(n, (1,), generator=rng)) for n in free)
        return top, left
    grey = original.mean(0, keepdim=True)[None]
    energy = (grey - F.avg_pool2d(grey, 5, 1, 2)).square()
    windows = F.avg_pool2d(energy, min(SIDE, height, width), stride=16)[0, 0]
    best = int(windows.argmax())
    return 16 * (best // windows.shape[1]), 16 * (best % windows.shape[1])


def cut(image: torch.Tensor, top: int, left: int) -> torch.Tensor:
    """The crop, enlarged."""
    return enlarge(image[:, top : top + SIDE, left : left + SIDE], ZOOM)


def make(args: argparse.Namespace) -> None:
    """Write the rows and the key.

    Raises:
        OptionError: a picture is missing or has another size than its original.
    """
    rng = torch.Generator().manual_seed(args.seed)
    rows, key = [], []
    for file in sorted(args.original.iterdir()):
        original = read_image(file)
        pair = [_same_size(folder, file, original) for folder in (args.first, args.second)]
        for textured in (True, False):
            corner = place(original, textured, rng)
            swapped = bool(torch.rand(1, generator=rng) < 0.5)
            left, right = (cut(image, *corner) for image in (pair[::-1] if swapped else pair))
            key.append(["second", "first"] if swapped else ["first", "second"])
            name = f"{len(key)} left"
            rows.append({name: left, "right": right, "original": cut(original, *corner)})
    for start in range(0, len(rows), ROWS):
        print(write_side_by_side(args.out / f"rows_{start // ROWS + 1}.png", rows[start:][:ROWS]))
    write_file(args.out / "key.json", json.dumps(key) + "\n")


def _same_size(folder: Path, file: Path, original: torch.Tensor) -> torch.Tensor:
    found = sorted(folder.glob(f"{file.stem}.*"))
    if len(found) != 1:
        raise OptionError(f"{folder}: {len(found)} pictures named {file.stem}, needed: one")
    image = read_image(found[0])
    if image.shape != original.shape:
        sizes = (f"{x.shape[2]}x{x.shape[1]}" for x in (image, original))
        raise OptionError(f"{found[0]}: {' px, its original '.join(sizes)} px")
    return image


def picked(key: list[list[str]], answers: list[str]) -> Counter[str]:
    """How often `first`, `second` and `same` were picked.

    Raises:
        OptionError: not one of ANSWERS for each row.
    """
    wrong = set(answers) - set(ANSWERS)
    if wrong or len(key) != len(answers):
        raise OptionError(
            f"{len(answers)} answers for {len(key)} rows, unknown: {sorted(wrong) or 'none'}; "
            f"write one of {', '.join(ANSWERS)} a row"
        )
    sides = {"left": 0, "right": 1}
    return Counter(
        "same" if answer == "same" else row[sides[answer]]
        for row, answer in zip(key, answers, strict=True)
    )


def chance(first: int, second: int) -> float:
    """Probability of a split at least so uneven by tossing a coin (two-sided sign test)."""
    count, most = first + second, max(first, second)
    tail = sum(math.comb(count, k) for k in range(most, count + 1)) / 2**count
    return min(1.0, 2 * tail)


def count(args: argparse.Namespace) -> None:
    """Print the count."""
    key = json.loads((args.out / "key.json").read_text(encoding="utf-8"))
    found = picked(key, args.answers.read_text(encoding="utf-8").split())
    first, second = found["first"], found["second"]
    print(
        f"{len(key)} rows: second {second}, first {first}, same {found['same']}; "
        f"by lot with probability {chance(first, second):.2f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description="A blind comparison of two restorations.")
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("make", help="write the rows and the hidden key")
    making.add_argument("out", type=Path, metavar="SHEET", help="folder")
    for name in ("first", "second", "original"):
        making.add_argument(f"--{name}", type=Path, required=True, help="folder of pictures")
    making.add_argument("--seed", type=int, default=0, help="of crops and sides (0)")
    making.set_defaults(do=make)
    counting = commands.add_parser("count", help="say how often each was picked")
    counting.add_argument("out", type=Path, metavar="SHEET", help="folder")
    counting.add_argument("answers", type=Path, help="text file, a word a row")
    counting.set_defaults(do=count)
    args = parser.parse_args(argv)
    args.do(args)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
