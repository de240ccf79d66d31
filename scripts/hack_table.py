"""What cheap changes of a picture do to the rewards of an options file; none may raise their total.

python scripts/hack_table.py -opt options/gdpo_sr.yml [--force_yml datasets:val:max_images=4 ...]
    [--maximised FOLDER]

Validation pictures are restored by the base; noise, a grid, blur, sharpening and a colour cast are
put on every candidate. Printed for each reward: for how many pictures it rises, and the mean gain
in units of its spread in a group. FOLDER gets, for the first picture, what each reward and their
total like best, found by the gradient: look at it. Exit status 1 if a change raises the mean total.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from gdpo_sr.cli import run_main
from gdpo_sr.config.data_options import DatasetOptions
from gdpo_sr.config.load import load_options
from gdpo_sr.types import OptionError
from gdpo_sr.writer import output_folder


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-opt", required=True, help="options file of stage 2")
    add("--force_yml", nargs="+", default=[], help="options that replace those of the file")
    add("--maximised", metavar="FOLDER", help="write the rewards' favourite pictures")
    add("--seed", type=int, default=0, help="of all noise (0)")
    args = parser.parse_args(argv)
    options = load_options(args.opt, args.force_yml)
    if args.maximised is not None:
        check_folder(args.maximised, options.datasets)
    from gdpo_sr.stage2.hack_table import HackTable, table_text  # loads slowly

    table = HackTable(options, args.seed)
    rows = table.rows()
    print(table_text(rows))
    if args.maximised is not None:
        for line in table.write_maximised(Path(args.maximised)):
            print(f"left out: {line}")
    return int(any(row.gains["total"].mean() > 0 for row in rows))


def check_folder(text: str, datasets: DatasetOptions) -> None:
    """Raise OptionError where the pictures would lie among photos, or cannot be written."""
    folder = output_folder(text, "--maximised")
    place = Path(os.path.realpath(folder))
    parts = (datasets.train, datasets.val)
    roots = [root for part in parts for root in (part.dataroot_gt, part.dataroot_lq) if root]
    for photos in (name for r in roots for name in ([r] if isinstance(r, str) else r)):
        if Path(os.path.realpath(photos)) in (place, *place.parents):
            raise OptionError(f"--maximised {folder}: {photos} is a folder of photos; name another")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
