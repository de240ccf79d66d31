"""How many faults of each kind were tried, and how many of them went wrong.

python -m tests.faults.count                      # all kinds: about 20 minutes on half a core
python -m tests.faults.count --only states yaml   # some of them
python -m tests.faults.count --times 0.1          # a tenth of the cases
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    """Print the table; 1 if a case went wrong."""
    import torch  # here, since workers of loaders import this module

    from tests.faults.kinds import ALL, quiet
    from tests.tiny_base import tiny_base

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--times", type=float, default=1, help="share of the cases")
    args = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    wrong: list[str] = []
    print("| kind | tried | refused | wrong |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        base = tiny_base(Path(folder) / "base")
        for name in args.only:
            (root := Path(folder) / name).mkdir()
            for tally in ALL[name](base, root, lambda count: max(1, round(count * args.times))):
                print(tally.row(), flush=True)
                told = [*filter(None, [tally.note]), *tally.wrong]
                print("\n".join(told), file=sys.stderr, flush=True)
                wrong += tally.wrong
    seconds = sum(os.times()[:4])
    share = "all cases" if args.times == 1 else f"{args.times:g} of the cases of every kind"
    print(f"\n{share}: {len(wrong)} wrong; {seconds:.0f} s of a core, {time.strftime('%F %R')}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
