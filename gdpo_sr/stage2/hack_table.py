"""The rewards of an options file, asked about cheap changes of what the base restores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gdpo_sr.advantages import finite_std
from gdpo_sr.config.schema import GDPOOptions
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.group.advantages import total_in_spreads
from gdpo_sr.group.hacks import HackRow, hack_rows, maximised
from gdpo_sr.group.sample import Group, sample_group
from gdpo_sr.group.score import as_given_out, score_group
from gdpo_sr.rewards.base import Reward
from gdpo_sr.rewards.scoring import score_with_gradient
from gdpo_sr.rewards.texture_share import texture_share
from gdpo_sr.stage2.build_rewards import build_rewards
from gdpo_sr.trainer.build_data import build_base_generator, build_validation_pairs
from gdpo_sr.types import OptionError, SRBatch
from gdpo_sr.utils.image_io import write_image

Score = Callable[[torch.Tensor], torch.Tensor]


class Asked(NamedTuple):
    """A validation picture: its name, the base's candidates, the truth and rho_d."""

    name: str
    group: Group
    hr: torch.Tensor
    texture: torch.Tensor


class HackTable:
    """Rewards and candidates as an options file has them.

    Args:
        options: of a run of stage 2; its validation pictures are restored.
        seed: of all noise.
    """

    def __init__(self, options: GDPOOptions, seed: int = 0) -> None:
        self.reward = options.train.reward
        self.rng = torch.Generator().manual_seed(seed)
        self.rewards: dict[str, Reward] = build_rewards(self.reward, "cpu", self.rng)
        network = build_base_generator(options.network_g)
        size = options.train.group_size
        self.asked = [self._ask(network, p, size) for p in build_validation_pairs(options)]

    def _ask(self, network: NoiseAwareGenerator, pair: dict[str, Any], size: int) -> Asked:
        captions = [pair["caption"]] if "caption" in pair else None
        batch = SRBatch(
            pair["lr"][None], pair["hr"][None], network.prompts_of(captions, 1), [pair["name"]]
        )
        group = sample_group(network, batch, size, self.rng)
        fixed, x = self.reward.fixed_perception_weight, self.reward.texture
        share = texture_share(batch.hr, x.patch_size, x.threshold, x.grey)
        texture = share if fixed is None else torch.full_like(share, fixed)
        return Asked(pair["name"], group, batch.hr, texture)

    def rows(self) -> list[HackRow]:
        """One of each change, over all pictures."""
        parts = [
            hack_rows(self.rewards, a.group, a.hr, a.texture, self.rng, self.reward.color_fix)
            for a in self.asked
        ]
        return [
            HackRow(same[0].hack, {k: torch.cat([r.gains[k] for r in same]) for k in same[0].gains})
            for same in zip(*parts, strict=True)
        ]

    def write_maximised(self, folder: Path, steps: int = 60) -> list[str]:
        """For the first picture `base.png`, `hr.png`, and for each reward and their total the
        picture that it likes best; what has no gradient is returned, as sentences.
        """
        asked, left_out = self.asked[0], []
        seen = as_given_out(asked.group, self.reward.color_fix)
        write_image(folder / "base.png", seen[0, 0])
        write_image(folder / "hr.png", asked.hr[0])
        favourites = {name: self._score_of(name, asked) for name in self.rewards}
        favourites["total"] = self._total(asked)
        for name, score in favourites.items():
            try:
                found = maximised(score, seen[:, 0], steps)
            except OptionError as error:
                left_out.append(f"{name}: {error}")
                continue
            write_image(folder / f"{name}.png", found[0])
        return left_out

    def _score_of(self, name: str, asked: Asked) -> Score:
        """Pictures (N, 3, H, W) -> what a reward says of them (N,), with a graph."""

        def score(images: torch.Tensor) -> torch.Tensor:
            found = score_with_gradient(name, self.rewards[name], images[:, None], asked.hr)
            return found.flatten(1).mean(1)

        return score

    def _total(self, asked: Asked) -> Score:
        """As `_score_of`, of the rewards with a weight, each in its spread in the group."""
        used = {name: reward for name, reward in self.rewards.items() if reward.weight > 0}
        scores = score_group(used, asked.group, asked.hr, color_fix=self.reward.color_fix)
        spreads = {name: finite_std(s, -1) for name, s in scores.items()}
        parts = {name: self._score_of(name, asked) for name in used}

        def score(images: torch.Tensor) -> torch.Tensor:
            found = {name: part(images)[:, None] for name, part in parts.items()}
            return total_in_spreads(found, spreads, asked.texture, used)[:, 0]

        return score


def table_text(rows: list[HackRow]) -> str:
    """Of each change, how many pictures each reward and the total rise for, and the mean gain."""
    names = list(rows[0].gains)
    lines = ["change".ljust(14) + "".join(name.rjust(26) for name in names)]
    for row in rows:
        cells = [
            f"{int((g > 0).sum())} of {len(g)}, {float(g.mean()):+.2f}" for g in row.gains.values()
        ]
        lines.append(row.hack.ljust(14) + "".join(cell.rjust(26) for cell in cells))
    return "\n".join(lines)
