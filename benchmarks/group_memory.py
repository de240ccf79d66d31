"""Memory and time of one update of stage 2 against the size of the group, G.

python -m benchmarks.group_memory                                  # embedded base
python -m benchmarks.group_memory --base sd:0.125 --groups 2 6 16
python -m benchmarks.group_memory --base sd:1 --size 512 --device cuda --precision bf16

From the repository's root. Options and columns as stage2_step.py has them, each cell from a process
of its own; "in chunks" is train:update_chunk=1 and train:group_chunk=1.
"""

from __future__ import annotations

import argparse

from benchmarks.stage2_step import (
    OWN,
    SMALL,
    add_common_options,
    in_fresh_process,
    machine,
)
from benchmarks.stage2_variants import make_base, scratch

VARIANTS = {"whole group": OWN, "in chunks": f"{OWN}, {SMALL}"}
PARTS = {"kept": ("kept MiB", 2**20), "peak": ("peak MiB", 2**20), "ms": ("ms", 1)}


def main() -> None:
    """Print the table."""
    args = _parser().parse_args()
    with scratch() as folder:
        args.base = make_base(args.base, folder, args.device)
        heads = [f"{name}, {variant}" for name, _ in PARTS.values() for variant in VARIANTS]
        print(f"| G | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}", flush=True)
        for group in args.groups:
            args.group = group
            found = [in_fresh_process(args, name) for name in VARIANTS.values()]
            cells = [f"{f[key] / unit:.0f}" for key, (_, unit) in PARTS.items() for f in found]
            print(f"| {group} | {' | '.join(cells)} |", flush=True)
    print(f"\n{machine(args)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument("--groups", nargs="+", type=int, default=[2, 4, 6, 8, 12, 16])
    return parser


if __name__ == "__main__":
    main()
