"""How well a metric ranks the candidates of a group: the same ranks after a change nobody sees?

    python benchmarks/reward_reliability.py                     # PSNR-Y, PIQE, NIQE; crops of 96 px
    python benchmarks/reward_reliability.py --size 192 --groups 12 --metrics psnr_y piqe ssim

A reward can teach only what its ranking inside a group says about the candidates. Each candidate of
the embedded base is scored as it is and again after noise of one grey level, or with the group and
its HR picture shifted by one pixel (wrapped around). The figure is the mean correlation of a
group's scores before and after: 1, the metric sees the candidates; 0, it draws lots. `tied`: share
of groups whose scores are all equal.
"""

from __future__ import annotations

import argparse

import torch

from gdpo_sr.config.load import load_options
from gdpo_sr.group.sample import sample_group
from gdpo_sr.metrics import Metric, create_metric
from gdpo_sr.trainer.build_data import build_base_generator, build_degradation, build_training_set
from gdpo_sr.types import SRBatch

GREY_LEVEL = 1 / 255


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metrics", nargs="+", default=["psnr_y", "piqe", "niqe"])
    parser.add_argument("--size", type=int, default=96, help="side of the HR crops in pixels")
    parser.add_argument("--groups", type=int, default=24)
    parser.add_argument("--group_size", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    candidates, hr = draw_groups(args.size, args.groups, args.group_size)
    print(f"\n{args.groups} groups of {args.group_size}, {args.size} px\n")
    print("| metric | one grey level of noise | shift by one pixel | tied |\n|---|---|---|---|")
    for name in args.metrics:
        print(row(name, create_metric(name, "cpu"), candidates, hr))


@torch.no_grad()
def draw_groups(size: int, groups: int, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates (B, G, 3, H, W) and HR pictures (B, 3, H, W) of the main job's first crops."""
    options = load_options("options/gdpo_sr.yml", [f"datasets:train:gt_size={size}"])
    generator = build_base_generator(options.network_g)
    photos, rng = build_training_set(options), torch.Generator().manual_seed(0)
    hr = torch.stack([photos[draw]["hr"] for draw in range(groups)])
    lr = build_degradation(options)(hr, rng)
    prompts = generator.prompts_of(None, groups)
    batch = SRBatch(lr, hr, prompts, [""] * groups)
    return sample_group(generator, batch, group_size, rng).images, hr


def row(name: str, metric: Metric, candidates: torch.Tensor, hr: torch.Tensor) -> str:
    """The metric's line of the table."""
    noise = torch.randn(candidates.shape, generator=torch.Generator().manual_seed(1)) * GREY_LEVEL
    plain = scores(metric, candidates, hr)
    noisy = scores(metric, (candidates + noise).clamp(0, 1), hr)
    shifted = scores(metric, candidates.roll((1, 1), (-2, -1)), hr.roll((1, 1), (-2, -1)))
    tied = float((plain.std(1) == 0).float().mean())
    noisy, shifted = correlation(plain, noisy), correlation(plain, shifted)
    return f"| {name} | {noisy:.2f} | {shifted:.2f} | {tied:.2f} |"


def scores(metric: Metric, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """(B, G), float64."""
    found = metric(candidates.flatten(0, 1), hr.repeat_interleave(candidates.shape[1], 0))
    return found.reshape(candidates.shape[:2]).double()


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over groups of the correlation of a and b (B, G) inside a group; a tie counts as 0."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    size = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return float(torch.where(size > 0, (a * b).sum(1) / size, 0).mean())


if __name__ == "__main__":
    main()
