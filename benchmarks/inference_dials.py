"""What --t_add, --select and --mean do to fidelity and realism on real photos, as Markdown tables.

python benchmarks/inference_dials.py
python benchmarks/inference_dials.py --input FOLDER --truth FOLDER --base BASE --lora RUN

Restores every picture of a folder by the code of `inference.py`, with the same seed in every row,
and compares the written files with their originals. Means and the paired standard error of the
change against the first row, over the pictures.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from gdpo_sr.metrics.registry import create_metric
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.pipelines.restorer import RestoreOptions, Restorer
from gdpo_sr.restore.options import FolderOptions
from gdpo_sr.restore.plan import plan
from gdpo_sr.restore.restore_folder import restore_folder
from gdpo_sr.utils.image_io import list_images, read_image

EXAMPLE = Path(__file__).resolve().parents[1] / "datasets" / "example"
METRICS = ("psnr_y", "ssim", "niqe", "piqe")
SELECT = "piqe"  # the metric that chooses; NIQE is the one held out


def main() -> None:
    """Print both tables."""
    args = _parser().parse_args()
    torch.set_num_threads(1)
    pipe = OneStepSRPipeline.from_pretrained(args.base)
    if args.lora:
        pipe.load_lora_weights(args.lora)
    saved = pipe.scheduler.config.t_add
    dial = {f"t_add {t}{' (saved)' * (t == saved)}": {"t_add": t} for t in args.t_add}
    noises = {
        "one noise": {},
        f"best of {args.candidates} by {SELECT}": {"choice": "best", "candidates": args.candidates},
        f"mean of {args.candidates}": {"choice": "mean", "candidates": args.candidates},
    }
    for rows in (dial, noises):
        print_table({name: scores(pipe, args, **options) for name, options in rows.items()})


def scores(
    pipe: OneStepSRPipeline, args: argparse.Namespace, t_add: int | None = None, **options: object
) -> torch.Tensor:
    """(metrics, pictures) of one setting."""
    chooser = create_metric(SELECT)
    with tempfile.TemporaryDirectory() as folder:
        settings = FolderOptions(RestoreOptions(t_add=t_add), Path(folder), args.seed, **options)
        jobs = plan([str(args.input)], folder)
        restorer = Restorer(pipe.generator, pipe.device)
        restore_folder(jobs, restorer, settings, _must_work, lambda image: -float(chooser(image)))
        results = [read_image(job.target)[None] for job in jobs]
    truths = {path.stem: path for path in list_images(args.truth)}
    originals = [read_image(truths[job.source.stem])[None] for job in jobs]
    metrics = [create_metric(name) for name in METRICS]
    pairs = list(zip(results, originals, strict=True))
    return torch.tensor([[float(metric(*pair)) for pair in pairs] for metric in metrics])


def print_table(rows: dict[str, torch.Tensor]) -> None:
    """Mean per metric, and the change against the first row with its standard error."""
    first = next(iter(rows.values()))
    lower = [create_metric(name).lower_better for name in METRICS]
    heads = [f"{n} ({'lower' if low else 'higher'})" for n, low in zip(METRICS, lower, strict=True)]
    print(f"\n| n = {first.shape[1]} | {' | '.join(heads)} |\n|{'---|' * (len(METRICS) + 1)}")
    for name, values in rows.items():
        cells = []
        for value, usual in zip(values, first, strict=True):
            change = value - usual
            error = change.std() / len(change) ** 0.5
            shown = "" if values is first else f" ({change.mean():+.3f} +- {error:.3f})"
            cells.append(f"{value.mean():.3f}{shown}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _must_work(job: object, problem: str | None) -> None:
    if problem:
        raise SystemExit(problem)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, default=EXAMPLE / "val_lr", help="LR pictures")
    parser.add_argument("--truth", type=Path, default=EXAMPLE / "val", help="originals")
    parser.add_argument("--base", default="mini")
    parser.add_argument("--lora", metavar="RUN")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--t_add", type=int, nargs="+", default=[50, 150, 250, 350])
    return parser


if __name__ == "__main__":
    main()
