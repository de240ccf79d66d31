"""Enlarge a folder of LR pictures by bicubic interpolation: the baseline of every table.

python scripts/bicubic.py -i datasets/example/val_lr -o results/bicubic
"""

from __future__ import annotations

import argparse
import sys

from gdpo_sr.cli import run_main
from gdpo_sr.pipelines.picture_inputs import check_scale
from gdpo_sr.restore.each import write_each
from gdpo_sr.restore.plan import plan
from gdpo_sr.utils.resample import enlarge


def main(argv: list[str] | None = None) -> int:
    """Enlarge a folder; returns the exit status."""
    parser = argparse.ArgumentParser(description="Enlarge a folder by bicubic interpolation.")
    parser.add_argument("-i", "--input", required=True, help="folder of LR pictures")
    parser.add_argument("-o", "--output", required=True, help="folder for PNG files")
    parser.add_argument("--scale", type=float, default=4)
    arguments = parser.parse_args(argv)
    check_scale(arguments.scale)
    jobs = plan([arguments.input], arguments.output)
    return write_each(jobs, lambda job, lr: enlarge(lr, arguments.scale))


if __name__ == "__main__":
    sys.exit(run_main(main))
