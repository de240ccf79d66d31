"""How far tiled and untiled restoration agree, and whether tile borders show, as a Markdown table.

python benchmarks/tile_seams.py
python benchmarks/tile_seams.py --images datasets/example/val_lr/*.png --base BASE
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from gdpo_sr import OneStepSRPipeline
from gdpo_sr.utils.image_io import list_images, read_image
from gdpo_sr.utils.tiling import TileGrid

EXAMPLE = Path(__file__).resolve().parents[1] / "datasets" / "example" / "val_lr"
SETTINGS = ((128, 16), (96, 16), (64, 16), (64, 8), (64, 0))  # tile and overlap in latent pixels


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", nargs="+", type=Path, help="LR pictures (4 examples)")
    parser.add_argument("--base", default="mini")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = OneStepSRPipeline.from_pretrained(args.base)
    images = [read_image(path) for path in args.images or list_images(EXAMPLE)[:4]]
    wholes = [_restore(pipe, image, tile=0) for image in images]
    print("| tile | overlap | tiles | mean difference / 255 | largest / 255 | across borders |")
    print("|---|---|---|---|---|---|")
    for tile, overlap in SETTINGS:
        found = [_compare(pipe, *pair, tile, overlap) for pair in zip(images, wholes, strict=True)]
        tiles, mean, largest, contrast = torch.tensor(found).unbind(1)
        print(
            f"| {tile} | {overlap} | {int(tiles.sum())} | {mean.mean():.2f} | {largest.max():.1f} "
            f"| {contrast.nanmean():.2f} |",
            flush=True,
        )


def border_contrast(image: torch.Tensor, grid: TileGrid, step: int) -> float:
    """Mean gradient across tile borders / that across other borders of latent pixels.

    Args:
        image: (3, H, W), such as the difference of two restorations.
        grid: the tiles, in pixels.
        step: pixels per latent pixel; these may have a grid of their own, which is no seam.
    """
    ratios = []
    for axis, starts, side in ((-1, grid.columns, grid.wide), (-2, grid.rows, grid.high)):
        gradient = image.diff(dim=axis).abs().movedim(axis, -1).flatten(0, -2).mean(0)
        edges = {edge - 1 for start in starts for edge in (start, start + side)}
        borders = [edge for edge in edges if 0 <= edge < len(gradient)]
        others = [i for i in range(step - 1, len(gradient), step) if i not in edges]
        if borders:
            ratios.append(float(gradient[borders].mean() / gradient[others].mean()))
    return max(ratios, default=float("nan"))


def _compare(
    pipe: OneStepSRPipeline, image: torch.Tensor, whole: torch.Tensor, tile: int, overlap: int
) -> tuple[float, float, float, float]:
    """Tiles, mean and largest difference in 1 / 255, contrast of the borders."""
    difference = _restore(pipe, image, tile=tile, tile_overlap=overlap) - whole
    ratio = pipe.generator.pixels_per_latent
    multiple = pipe.generator.size_multiple
    grid = TileGrid(*whole.shape[1:], tile * ratio, overlap * ratio, multiple)
    steps = difference.abs() * 255
    contrast = border_contrast(difference, grid, ratio)
    return len(grid), float(steps.mean()), float(steps.max()), contrast


def _restore(pipe: OneStepSRPipeline, image: torch.Tensor, **options: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return pipe(image, generator=rng, output_type="pt", **options).images[0]


if __name__ == "__main__":
    main()
