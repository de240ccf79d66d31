"""Train stage 1 in every process that torchrun starts and write each one's weights.

torchrun --standalone --nproc_per_node 2 tests/two_processes.py FOLDER KEY=VALUE ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from gdpo_sr.config.load import load_options
from gdpo_sr.train import run

OPTIONS_FILE = Path(__file__).resolve().parents[1] / "options" / "naosd.yml"


def main(folder: Path, overrides: list[str]) -> None:
    torch.set_num_threads(1)
    finished, model = run(load_options(OPTIONS_FILE, overrides), auto_resume=False)
    assert finished
    weights = {**model.trained, **model.beside}
    values = {name: p.detach().cpu().clone() for name, p in weights.items()}
    torch.save(values, folder / f"rank{model.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
