"""Paired validation: trained network and base restore the same pictures from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from gdpo_sr.checkpoints.lora import adapters_disabled
from gdpo_sr.data.draws import generator_for
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.group.sample import GroupNoise, Sampling, draw_noise, enlarge_lr, restore_group
from gdpo_sr.metrics import Metric
from gdpo_sr.trainer.report import Comparison, MetricComparison, Pictures, mean
from gdpo_sr.utils.color_fix import apply_color_fix

Scores = dict[str, list[float]]


class PairedValidation:
    """Compares the trained network with its base.

    Args:
        network: the trained one.
        pairs: dicts of `hr` (3, H, W), `lr` and `name`, as from `make_validation_set`.
        metrics: by the name they get in the table.
        rewarded: names of those that training looks at, as a reward or a loss.
        noise_seed, num_noises: the injected noise of picture i and repetition k depends on
            (noise_seed, i, k) alone.
        color_fix: method that gives restorations the colours of their LR picture, as inference does
            (`gdpo_sr.utils.color_fix`).
        base: inside this context the network is its base; None: its adapters are switched off.
            Used once, at the first run or in `remember_base`.
    """

    def __init__(
        self,
        network: NoiseAwareGenerator,
        pairs: list[dict[str, Any]],
        metrics: Mapping[str, Metric],
        rewarded: set[str],
        noise_seed: int = 0,
        num_noises: int = 1,
        color_fix: str = "wavelet",
        base: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> None:
        self.network = network
        self.pairs = pairs
        self.metrics = metrics
        self.rewarded = rewarded
        self.noise_seed = noise_seed
        self.num_noises = num_noises
        self.color_fix = color_fix
        self._base_context = base or (lambda: adapters_disabled(network.unet))
        self._base: tuple[Scores, list[torch.Tensor]] | None = None

    def run(self, iteration: int) -> tuple[Comparison, Pictures]:
        """Figures, and for every picture `lr` (enlarged), `base`, `policy`, `hr`: (3, H, W) in [0,
        1], first noise.
        """
        base, base_images = self.remember_base()
        policy, policy_images = self._restore_and_score()
        rows = [
            MetricComparison(n, m.lower_better, n in self.rewarded, base[n], policy[n])
            for n, m in self.metrics.items()
        ]
        names = [pair["name"] for pair in self.pairs]
        pictures = [
            {
                "lr": enlarge_lr(pair["lr"][None], pair["hr"][None])[0] / 2 + 0.5,
                "base": before,
                "policy": after,
                "hr": pair["hr"],
            }
            for pair, before, after in zip(self.pairs, base_images, policy_images, strict=True)
        ]
        return Comparison(iteration, names, rows), pictures

    def remember_base(self) -> tuple[Scores, list[torch.Tensor]]:
        """Scores and pictures of the base, computed at the first call.

        A base whose own weights are trained must be remembered before they change.
        """
        if self._base is None:
            with self._base_context():
                self._base = self._restore_and_score()
        return self._base

    def _restore_and_score(self) -> tuple[Scores, list[torch.Tensor]]:
        scores: Scores = {name: [] for name in self.metrics}
        pictures = []
        for index, pair in enumerate(self.pairs):
            restored = self._restore(index, pair)
            hr = pair["hr"].to(restored).expand_as(restored)
            for name, metric in self.metrics.items():
                scores[name].append(mean(metric(restored, hr).tolist()))
            pictures.append(restored[0].cpu())
        return scores, pictures

    def _restore(self, index: int, pair: dict[str, Any]) -> torch.Tensor:
        """Restorations (num_noises, 3, H, W) in [0, 1] of picture `index`."""
        device = next(self.network.unet.parameters()).device
        enlarged = enlarge_lr(pair["lr"][None], pair["hr"][None]).to(device)
        shape = self.network.latent_shape(enlarged)
        noise = [
            draw_noise(shape, generator_for("noise", self.noise_seed, index, k), device)
            for k in range(self.num_noises)
        ]
        prompts = self.network.prompts_of([pair["caption"]] if "caption" in pair else None, 1)
        injected = GroupNoise(None, torch.stack(noise, 1))
        group = restore_group(self.network, enlarged, prompts, injected, Sampling(chunk=1))
        restored = group.images[0]
        colours = (enlarged / 2 + 0.5).expand_as(restored)
        with torch.autocast(restored.device.type, enabled=False):
            return apply_color_fix(self.color_fix, restored, colours).clamp(0, 1)
