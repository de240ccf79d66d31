"""Merge a LoRA into its base; the same as `gdpo-sr merge`.

python scripts/merge_lora.py --base mini --lora experiments/naosd_mini -o merged
"""

import sys

from gdpo_sr.cli import run_main
from gdpo_sr.merge import main

if __name__ == "__main__":
    sys.exit(run_main(main))
