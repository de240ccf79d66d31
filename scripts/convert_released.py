"""Convert a released checkpoint; the same as `gdpo-sr convert`.

python scripts/convert_released.py stage1.pkl -o converted/stage1
"""

import sys

from gdpo_sr.cli import run_main
from gdpo_sr.convert import main

if __name__ == "__main__":
    sys.exit(run_main(main))
