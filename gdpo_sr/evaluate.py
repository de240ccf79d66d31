"""Score pictures: `python evaluate.py -i RESULTS [MORE ...] -g GT [--protocol osediff] [--report
DIR]`; docs/evaluation.md says all of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

PROTOCOLS = ("osediff", "gdpo", "offline")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0; or 1 if a picture could not be read or has no score, or if a metric named by --metrics
        is missing; everything else is scored all the same.

    Raises:
        GDPOSRError: folders whose names do not match, an unknown metric, a bad option, runs of
            different protocols.
    """
    args = _parser().parse_args(argv)
    from gdpo_sr.evaluation.command import run  # loads slowly; --help does without

    return run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description="Score pictures, compare methods."
    )
    add = parser.add_argument
    add(
        "-i",
        "--input",
        required=True,
        nargs="+",
        metavar="RESULTS",
        help="folders or pictures, one per method: FOLDER or NAME=FOLDER; the same NAME again, or"
        " a folder of folders, gives several runs (seeds) of it; a .json file of saved scores",
    )
    add("-g", "--gt", help=_GT_HELP)
    add("-r", "--recursive", action="store_true", help="folders are trees; each is one run")
    add("--allow_missing", action="store_true", help="leave out what is not in all folders")
    add(
        "--protocol",
        choices=PROTOCOLS,
        help="published set of metrics (offline: what needs no download)",
    )
    add("--metrics", nargs="+", metavar="NAME", help="instead of a protocol: any names of pyiqa")
    add("--crop_border", type=int, default=0, help="pixels cut off at each side (0)")
    add("--baseline", metavar="NAME", help="method that the others are compared with (the first)")
    add("--save_json", metavar="FILE", help="write protocol, scores per picture and means")
    add("--save", metavar="DIR", help="write scores.json, scores.csv, table.md and table.tex")
    add("--report", metavar="DIR", help="these and a page to look at, index.html")
    add("--device", default="cpu", help="where metrics are computed (cpu)")
    add("--allow_download", action="store_true", help="let pyiqa fetch weights that are missing")
    return parser


_GT_HELP = (
    "picture or folder of ground truth, matched by name without suffix; an ending that all results"
    " have, as _x4, is left out"
)
