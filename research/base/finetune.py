"""Fine-tuning of the base: distillation from the teacher, then realism by a discriminator.

Every term of the loss is weighed by the size of its gradient at the picture, so that a weight of
0.5 means half as strong as the pixels, whatever the units. The pixel term is the energy score,
which keeps outputs of different noises different.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from discriminator import FeatureDiscriminator
from start import FROZEN, enlarge
from targets import original_share, texture_weight
from tiles import Batch, Tiles, draw_batch

from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.losses.energy_score import (
    energy_score,
    gradients,
    patch_mean,
    patch_norm,
)
from gdpo_sr.metrics.feature_maps import distance_map
from gdpo_sr.metrics.features import Features

_PIXEL_SIZES, _GRADIENT_SIZES = (1, 4, 16), (2, 8)
_SPREAD_SIZE = 16
_SHIFTS = 8
"""Features, whose strides multiply to 8, see a picture at as many places across and down: at one
place alone the network wove a pattern between the pixels that their strides look at."""
_RAMP = 100
"""Updates over which the discriminator comes in."""
_SAVE_EVERY = 60.0


@dataclass(frozen=True)
class Recipe:
    """What is asked of the pictures.

    Attributes:
        original: factor of the original's share of the target; the rest is the teacher's answer.
        beta: of the energy score; 1 would spread outputs as widely as the LR picture leaves open.
        feature_weight, feature_gan: strengths against the pixel term.
        real: what the discriminator is shown as real: ``hr`` or ``both`` (HR and teacher).
        spread, spread_target: weight of, and wanted RMS (of [-1, 1]) in, the difference of two
            outputs where the picture is textured.
        lr: highest learning rate of the network; the discriminator has four times as much.
        batch, crop: LR pictures an update, each with two noises, and side of HR crops in pixels.
        average: decay of the average of the weights.
    """

    original: float = 1.0
    beta: float = 0.7
    feature_weight: float = 1.0
    feature_gan: float = 0.5
    real: str = "both"
    spread: float = 0.15
    spread_target: float = 0.06
    lr: float = 2e-4
    batch: int = 16
    crop: int = 128
    average: float = 0.999


RECIPES = {
    "distill": Recipe(original=0, beta=0.3, feature_gan=0, spread=0, average=0.99),
    "crisp": Recipe(original=0.4, feature_weight=3.0, feature_gan=1.5, lr=1e-4),
    "even": Recipe(
        feature_weight=3.0,
        feature_gan=2.0,
        spread=0.4,
        spread_target=0.08,
        lr=1.5e-4,
    ),
}


class FineTuner:
    """One run of a recipe on precomputed tiles, which ends with its minutes and can be resumed.

    Args:
        generator: its network is trained, on its device.
        tiles: on the same device.
        features: weights of `Features`.
        recipe: what is asked.
        state_file: written every minute and at the end; if it exists, training goes on.
        minutes: training time in all.
        seed: of crops and noise.
    """

    def __init__(
        self,
        generator: NoiseAwareGenerator,
        tiles: Tiles,
        features: Mapping[str, torch.Tensor],
        recipe: Recipe,
        state_file: Path,
        minutes: float,
        seed: int = 0,
    ) -> None:
        self.generator, self.tiles, self.recipe = generator, tiles, recipe
        self.state_file, self.minutes = state_file, minutes
        self.device = tiles.hr.device
        self.rng = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        layout = {"device": self.device, "memory_format": torch.channels_last}
        self.network = generator.unet.to(**layout).train()
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(not name.startswith(FROZEN))
        self.trained = [p for p in self.network.parameters() if p.requires_grad]
        self.features = Features(features).to(**layout)
        self.judge = FeatureDiscriminator().to(**layout)
        self.average = [p.detach().clone() for p in self.trained]
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.trained, recipe.lr, (0.8, 0.99), weight_decay=1e-4, fused=fused
        )
        self.judge_optimizer = torch.optim.Adam(
            self.judge.parameters(), 4 * recipe.lr, (0.5, 0.99), fused=fused
        )
        self.sizes: dict[str, torch.Tensor] = {}
        self.logs: dict[str, torch.Tensor] = {}
        self.updates, self.seconds = 0, 0.0
        with torch.no_grad():
            found = self.features(self.draw().hr)
            self.feature_sizes = [f.square().mean((0, 2, 3), keepdim=True).sqrt() for f in found]
        if state_file.is_file():
            self._load()

    # One update ------------------------------------------------------------------------------

    def draw(self) -> Batch:
        """Crops of some tiles."""
        return draw_batch(self.tiles, self.recipe.batch, self.recipe.crop, self.rng)

    def step(self) -> None:
        """One update of the network and of the discriminator."""
        batch = self.draw()
        raw = self._restore(enlarge(batch.lr / 2 + 0.5))
        image = raw.detach().requires_grad_(True)
        pull = self._pixel_pull(image, batch)
        size = self._size("pixels", pull)
        with torch.autocast(self.device.type, torch.bfloat16):
            pull = pull + self._feature_pull(image, batch, size)
        self._move(raw, pull)
        self._log(image.detach(), batch)
        self.updates += 1

    def _restore(self, enlarged: torch.Tensor) -> torch.Tensor:
        """Two outputs of each picture, first all first ones; (2B, 3, H, W), not clamped."""
        clean = self.generator.encode(enlarged)
        clean = torch.cat([clean, clean])
        noisy = self.generator.scheduler.add_noise(clean, torch.randn_like(clean))
        with torch.autocast(self.device.type, torch.bfloat16):
            restored = self.network(noisy).sample
        return self.generator.decode_unclamped(restored.float())

    def _pixel_pull(self, image: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Gradient at the pictures of the energy scores, and of what keeps outputs apart."""
        r = self.recipe
        textured = texture_weight(batch.hr)
        weight = r.beta * textured
        pair = image.chunk(2)
        share = self._original_share(batch)
        loss = _energies(pair, batch.teacher, weight, 1 - share)
        if r.original:
            loss = loss + _energies(pair, batch.hr, weight, share)
        if r.spread:
            # Means of 2 x 2 pixels: differences of neighbours alone would be met by grain.
            coarse = F.avg_pool2d(pair[0] - pair[1], 2, stride=1)
            apart = patch_norm(gradients(coarse), _SPREAD_SIZE)
            where = patch_mean(textured[..., 1:-1, 1:-1], _SPREAD_SIZE)
            loss = loss + r.spread * (F.relu(r.spread_target - apart) * where).mean()
        return torch.autograd.grad(loss, image)[0]

    def _original_share(self, batch: Batch) -> torch.Tensor:
        return self.recipe.original * original_share(batch.hr, batch.teacher)

    def _feature_pull(self, image: torch.Tensor, batch: Batch, size: torch.Tensor) -> torch.Tensor:
        """Gradient of the distance of features, and of what their discriminator says."""
        r = self.recipe
        top, left = torch.randint(_SHIFTS, (2,), generator=self.rng).tolist()
        found = self.features(image.clamp(-1, 1)[..., top:, left:])
        with torch.no_grad():
            of_hr = self.features(batch.hr[..., top:, left:])
            of_teacher = self.features(batch.teacher[..., top:, left:])
        share = self._original_share(batch).repeat(2)
        near = _distance(found, _twice(of_teacher), 1 - share)
        if r.original:
            near = near + _distance(found, _twice(of_hr), share)
        (pull,) = torch.autograd.grad(near, image, retain_graph=r.feature_gan > 0)
        pull = r.feature_weight * size / self._size("features", pull) * pull
        if not r.feature_gan:
            return pull
        judge = self.judge
        verdict = judge(self._unit(found))
        against = -torch.stack([v.mean() for v in verdict]).mean()
        (more,) = torch.autograd.grad(against, image)
        real = [of_hr, of_teacher] if r.real == "both" else [of_hr]
        real = [torch.cat(same) for same in zip(*real, strict=True)]
        loss = judge.loss(judge(self._unit([f.detach() for f in found])), judge(self._unit(real)))
        self._judge_backward(loss)
        return pull + self._ramp * r.feature_gan * size / self._size("feature_gan", more) * more

    def _judge_backward(self, loss: torch.Tensor) -> None:
        parameters = list(self.judge.parameters())
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = slope
        self._note("judge", loss.detach())

    def _move(self, raw: torch.Tensor, pull: torch.Tensor) -> None:
        """Update all weights: the network's along `pull`, the gradient at its pictures."""
        for optimizer, factor in ((self.optimizer, 1), (self.judge_optimizer, 4)):
            for group in optimizer.param_groups:
                group["lr"] = factor * self.learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        raw.backward(pull.float())
        slopes = [p.grad for p in self.trained if p.grad is not None]
        norm = torch.stack(torch._foreach_norm(slopes)).norm()
        usual = self.sizes.get("norm", norm)
        self.sizes["norm"] = 0.98 * usual + 0.02 * torch.minimum(norm, 3 * usual)
        torch._foreach_mul_(slopes, (5 * usual / (norm + 1e-12)).clamp(max=1))
        self.optimizer.step()
        self.judge_optimizer.step()
        self.judge_optimizer.zero_grad(set_to_none=True)
        decay = min(self.recipe.average, (self.updates + 1) / (self.updates + 10))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.trained], 1 - decay)

    @property
    def _ramp(self) -> float:
        return min(1.0, self.updates / _RAMP)

    def learning_rate(self) -> float:
        """Cosine over the time budget after a short warm-up."""
        done = min(self.seconds / (60 * self.minutes), 1.0)
        warm = min(1.0, (self.updates + 1) / 30)
        return self.recipe.lr * warm * (0.03 + 0.485 * (1 + math.cos(math.pi * done)))

    def _unit(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        return [f / (s + 1e-3) for f, s in zip(features, self.feature_sizes, strict=True)]

    def _size(self, name: str, pull: torch.Tensor) -> torch.Tensor:
        """Running RMS of a gradient."""
        now = pull.float().square().mean().sqrt()
        before = self.sizes.get(name, now)
        self.sizes[name] = (0.95 * before + 0.05 * now).clamp(min=1e-12)
        return self.sizes[name]

    # Logs, time and state ---------------------------------------------------------------------

    def _note(self, name: str, value: torch.Tensor) -> None:
        self.logs[name] = torch.lerp(self.logs.get(name, value).float(), value.float(), 0.03)

    def _log(self, image: torch.Tensor, batch: Batch) -> None:
        first, second = image.clamp(-1, 1).chunk(2)
        self._note("psnr", -10 * ((first - batch.hr) / 2).square().mean().log10())
        self._note("psnr_teacher", -10 * ((first - batch.teacher) / 2).square().mean().log10())
        self._note("spread", (first - second).square().mean().sqrt() * 127.5 / 2**0.5)
        edges = gradients(batch.hr).abs().mean()
        self._note("edges", gradients(first).abs().mean() / edges)
        self._note("edges_teacher", gradients(batch.teacher).abs().mean() / edges)

    def run(self, print_every: float = 15.0) -> None:
        """Train until the budget is spent, then give the network the averaged weights."""
        started, before = time.monotonic(), self.seconds
        printed = saved = started
        while self.seconds < 60 * self.minutes:
            self.step()
            now = time.monotonic()
            self.seconds = before + now - started
            if now - printed > print_every or self.updates in (1, 10):
                printed = now
                print(self.progress(), flush=True)
            if now - saved > _SAVE_EVERY:
                saved = now
                self._save()
        self._save()
        print(self.progress(), flush=True)
        self.use_average()

    def progress(self) -> str:
        """One line."""
        figures = " ".join(f"{name} {float(value):.3f}" for name, value in self.logs.items())
        rate = self.updates / max(self.seconds, 1e-9)
        return f"{self.state_file.stem} {self.updates} {self.seconds:.0f}s {rate:.1f}/s {figures}"

    @torch.no_grad()
    def use_average(self) -> None:
        """Give the network the averaged weights."""
        for parameter, mean in zip(self.trained, self.average, strict=True):
            parameter.copy_(mean)
        self.network.eval().requires_grad_(False)

    def _state(self) -> dict[str, Any]:
        return {
            "network": [p.detach() for p in self.trained],
            "average": self.average,
            "judge": self.judge.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "judge_optimizer": self.judge_optimizer.state_dict(),
            "sizes": self.sizes,
            "rng": self.rng.get_state(),
            "updates": self.updates,
            "seconds": self.seconds,
            "recipe": dataclasses.asdict(self.recipe),
        }

    def _save(self) -> None:
        """Write the state, and beside it the averaged weights alone, each whole or not at all."""
        averaged = dict(self.network.state_dict())
        names = [n for n, p in self.network.named_parameters() if p.requires_grad]
        averaged.update(zip(names, self.average, strict=True))
        averaged = {name: value.half().cpu().contiguous() for name, value in averaged.items()}
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        for file, content in (
            (self.state_file, self._state()),
            (self.state_file.with_suffix(".weights"), averaged),
        ):
            temporary = file.with_name(file.name + ".tmp")
            torch.save(content, temporary)
            os.replace(temporary, file)

    @torch.no_grad()
    def _load(self) -> None:
        state = torch.load(self.state_file, weights_only=True, map_location=self.device)
        for own, saved in ((self.trained, state["network"]), (self.average, state["average"])):
            for parameter, value in zip(own, saved, strict=True):
                parameter.copy_(value)
        self.judge.load_state_dict(state["judge"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.judge_optimizer.load_state_dict(state["judge_optimizer"])
        self.sizes = state["sizes"]
        self.rng.set_state(state["rng"].cpu())
        self.updates, self.seconds = state["updates"], state["seconds"]


def _energies(
    pair: tuple[torch.Tensor, ...], truth: torch.Tensor, weight: torch.Tensor, share: torch.Tensor
) -> torch.Tensor:
    """Energy scores of pixels and of edges, each picture's times its share; mean of all."""
    scores = []
    for i in range(len(truth)):
        one, true, beta = (
            (pair[0][i : i + 1], pair[1][i : i + 1]),
            truth[i : i + 1],
            weight[i : i + 1],
        )
        pixels = energy_score(one, true, beta, _PIXEL_SIZES)
        edges = (gradients(one[0]), gradients(one[1]))
        beta = beta[..., :-1, :-1]
        scores.append(pixels + energy_score(edges, gradients(true), beta, _GRADIENT_SIZES))
    return (share * torch.stack(scores)).mean()


def _distance(a: list[torch.Tensor], b: list[torch.Tensor], share: torch.Tensor) -> torch.Tensor:
    """LPIPS-like: squared difference of normalised features, each picture's times its share."""
    layers = [distance_map(x, y).flatten(1).mean(1) for x, y in zip(a, b, strict=True)]
    return (share * torch.stack(layers).mean(0)).mean()


def _twice(features: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.cat([f, f]) for f in features]
