"""A complete model of a trained recipe, or of the weighted mean of several.

    python research/base/choose.py --start runs/base/start --weights runs/base/both.weights -o mini
    python research/base/choose.py --start runs/base/start -o mini \\
        --weights 0.6=runs/base/both.weights 0.4=runs/base/clean.weights

All must come from the same distilled weights, or their mean is no network.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from gdpo_sr.checkpoints.model_folder import save_model_folder
from gdpo_sr.generators.load import load_components

Weights = Mapping[str, torch.Tensor]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--start", required=True, type=Path, help="OUT/start of train.py")
    add("--weights", required=True, nargs="+", metavar="SHARE=FILE", help="files of weights")
    add("-o", "--output", required=True, type=Path, help="folder of the model")
    return parser.parse_args()


def weighted_mean(parts: Iterable[tuple[float, Weights]]) -> dict[str, torch.Tensor]:
    """Sum of share times weights, float32; shares are divided by their sum."""
    parts = list(parts)
    total = sum(share for share, _ in parts)
    return {
        name: sum((share / total) * weights[name].float() for share, weights in parts)
        for name in parts[0][1]
    }


def write_model(start: Path, weights: Weights, folder: Path) -> None:
    """The start with these weights of its network, in half precision, as `folder`."""
    parts = load_components(start)
    parts["unet"].load_state_dict({name: value.float() for name, value in weights.items()})
    for name in ("unet", "text_encoder"):
        parts[name] = parts[name].half()
    save_model_folder(parts, folder)


def main() -> None:
    args = parse_arguments()
    pairs = (text.rpartition("=")[::2] for text in args.weights)
    parts = [(float(share or 1), torch.load(file, weights_only=True)) for share, file in pairs]
    write_model(args.start, weighted_mean(parts), args.output)


if __name__ == "__main__":
    main()
