"""Enlarge a folder of LR pictures by bicubic interpolation: the baseline of every table.

python scripts/bicubic.py -i datasets/example/val_lr -o results/bicubic
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from gdpo_sr.cli import run_main
from gdpo_sr.pipelines.one_step_sr import enlarge
from gdpo_sr.utils.image_io import list_images, read_image, write_image


def main(argv: list[str] | None = None) -> int:
    """Enlarge a folder; returns the exit status."""
    parser = argparse.ArgumentParser(description="Enlarge a folder by bicubic interpolation.")
    parser.add_argument("-i", "--input", required=True, help="folder of LR pictures")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder for PNG files")
    parser.add_argument("--scale", type=float, default=4)
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for path in tqdm(list_images(arguments.input), unit="picture"):
        enlarged = enlarge(read_image(path), arguments.scale)
        write_image(arguments.output / f"{path.stem}.png", enlarged)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
