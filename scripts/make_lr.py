"""Write the LR pictures of a folder of HR photos: the online degradation, once, reproducibly.

    python scripts/make_lr.py -i datasets/example/val -o datasets/example/val_lr

Each photo is cut to a multiple of the scale at its right and lower border and degraded with random
numbers that depend on (seed, file name) alone. PNG files of the same stem are written. A photo that
cannot be read is listed and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import sys

import torch

from gdpo_sr.cli import run_main
from gdpo_sr.config.degradation import light_degradation
from gdpo_sr.data.degradations import RealESRGANDegradation
from gdpo_sr.data.draws import generator_for
from gdpo_sr.restore.each import write_each
from gdpo_sr.restore.plan import Job, plan
from gdpo_sr.types import OptionError


def main(argv: list[str] | None = None) -> int:
    """Degrade a folder; returns the exit status."""
    parser = argparse.ArgumentParser(description="Degrade a folder of HR photos.")
    parser.add_argument("-i", "--input", required=True, help="folder of HR photos")
    parser.add_argument("-o", "--output", required=True, help="folder for LR pictures")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--light", action="store_true", help="as by a camera: little blur, noise")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.scale <= 8:
        raise OptionError(f"--scale {arguments.scale}: use 1 to 8, as the option scale")
    options = light_degradation() if arguments.light else None
    degrade = RealESRGANDegradation(options, arguments.scale)

    def degraded(job: Job, hr: torch.Tensor) -> torch.Tensor:
        height, width = (side - side % arguments.scale for side in hr.shape[-2:])
        rng = generator_for("make_lr", arguments.seed, job.source.name)
        return degrade(hr[None, :, :height, :width], rng)[0]

    return write_each(plan([arguments.input], arguments.output), degraded)


if __name__ == "__main__":
    sys.exit(run_main(main))
