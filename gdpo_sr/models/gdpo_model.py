"""GDPOModel: stage 2, Group Direct Preference Optimization of the generator's LoRA (GDPO-SR section
3.2).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from gdpo_sr.advantages import permute_within_groups, tied
from gdpo_sr.candidates import draw_group_noise, enlarge_lr, sample_candidates
from gdpo_sr.config.paths import write_text
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.lora import add_lora, load_lora, save_lora
from gdpo_sr.losses import gdpo_loss
from gdpo_sr.models.base_model import BaseModel
from gdpo_sr.models.build_data import (
    build_rewards,
    build_validation_metrics,
    build_validation_pairs,
)
from gdpo_sr.models.comparison import Comparison, mean
from gdpo_sr.models.validation import PairedValidation
from gdpo_sr.prediction_errors import (
    GroupErrors,
    prediction_errors,
    prediction_errors_from_lr,
)
from gdpo_sr.rewards.attribute_aware import content_weights, estimate_advantages
from gdpo_sr.rewards.score import score_candidates
from gdpo_sr.types import LossOutput, SRBatch
from gdpo_sr.utils.panels import captioned, write_side_by_side


class GDPOModel(BaseModel):
    """Samples groups with the reference, rewards them, and moves the policy towards the better
    candidates.

    The reference is the policy with its adapters switched off: one UNet in memory.
    """

    random_names = ("degradation", "sampling", "update", "control")

    def build(self) -> tuple[nn.Module, dict[str, nn.Parameter]]:
        """Generator, LoRA, rewards and validation."""
        o = self.options
        net = o.network_g
        components = load_components(net.base, net.revision, net.t_add, net.t_diff)
        if net.prompt is not None:
            components["prompt"] = net.prompt
        self.generator = build_generator(components).to(self.accelerator.device)
        self.default_prompt = self.generator.prompt
        unet = self.generator.unet
        if o.path.pretrain_lora is not None:
            load_lora(unet, o.path.pretrain_lora, trainable=True)
        else:
            add_lora(unet, o.train.lora.rank, o.train.lora.alpha, o.train.lora.dropout)
        if o.train.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        device = str(self.accelerator.device)
        self.rewards = build_rewards(o, device)
        self.validation = PairedValidation(
            self.generator,
            build_validation_pairs(o),
            build_validation_metrics(o, self.rewards, device),
            set(self.rewards),
            o.val.noise_seed,
            o.val.num_noises,
        )
        self.seconds: dict[str, float] = {}
        return unet, {name: p for name, p in unet.named_parameters() if p.requires_grad}

    def compute_loss(self, batch: SRBatch) -> LossOutput:
        """One stage-2 step up to the loss (ALGORITHM: section 3)."""
        t = self.options.train
        with self._timed("sampling"):
            rng = self.random["sampling"]
            noise = draw_group_noise(self.generator, batch, t.group_size, rng)
            group = sample_candidates(
                self.generator, batch, t.group_size, rng, t.group_chunk, noise
            )
        with self._timed("rewards"):
            scores = score_candidates(self.rewards, group, batch.hr)
            advantages = estimate_advantages(scores, self.rewards, self._texture(batch.hr))
        if t.control == "permuted_advantages":
            advantages = permute_within_groups(advantages, self.random["control"])
        with self._timed("update"):
            policy, reference = self._errors(batch, group, noise[1])
            output = gdpo_loss(policy, reference, advantages, t.loss.omega)
        return LossOutput(output.loss, {**output.logs, **self._group_logs(scores, advantages)})

    def _errors(self, batch: SRBatch, group: torch.Tensor, noise: torch.Tensor) -> GroupErrors:
        """Prediction errors as `train.update_input`, `target` and `shared_noise` say."""
        t, rng = self.options.train, self.random["update"]
        if t.update_input == "lr":
            with torch.no_grad():
                lr_latents = self.generator.encode(enlarge_lr(batch.lr, batch.hr))
            return prediction_errors_from_lr(
                self.generator, group, lr_latents, batch.prompts, noise, self.network
            )
        return prediction_errors(
            self.generator,
            group,
            batch.prompts,
            rng,
            t.target,
            t.shared_noise,
            t.group_chunk,
            self.network,
        )

    def _texture(self, hr: torch.Tensor) -> torch.Tensor:
        r = self.options.train.reward
        x = r.texture
        return content_weights(hr, x.patch_size, x.threshold, x.grey, r.fixed_perception_weight)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - start

    def _group_logs(
        self, scores: dict[str, torch.Tensor], advantages: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Mean, spread inside a group and failures of every metric; groups without a preference;
        seconds.
        """
        logs = {"skipped_groups": (advantages == 0).all(-1).sum()}
        for name, values in scores.items():
            finite = values[values.isfinite()]
            sign = -1.0 if self.rewards[name].metric.lower_better else 1.0
            logs[f"metric_{name}"] = sign * finite.mean()
            logs[f"spread_{name}"] = (
                values.nanmean(-1, keepdim=True).sub(values).square().nanmean().sqrt()
            )
            logs[f"failed_{name}"] = (~values.isfinite()).sum()
            logs[f"tied_{name}"] = tied(values).sum()
        logs.update({f"seconds_{k}": torch.tensor(v) for k, v in self.seconds.items()})
        return logs

    def progress_text(self, logs: dict[str, float]) -> str:
        """Loss and the mean of every rewarded metric of the group."""
        metrics = [f"{name} {logs[f'metric_{name}']:.2f}" for name in self.rewards]
        return " ".join([f"loss {logs['loss']:.3f}", *metrics])

    def validate(self) -> None:
        """Policy against base, same pictures, same noise: log, TensorBoard, `validation.jsonl`,
        pictures.
        """
        if not self.accelerator.is_main_process:
            return
        with self.average.applied():
            comparison, pictures = self.validation.run(self.iteration)
        self.last_comparison = comparison
        for row in comparison.metrics:
            self.logger.info(
                "validation %d: %s base %.4f policy %.4f change %+.4f, better on %d of %d",
                self.iteration,
                row.name,
                mean(row.base),
                mean(row.policy),
                mean(row.changes()),
                row.improved(),
                len(row.changes()),
            )
        if self.scalars is not None:
            values = {f"val/{r.name}": mean(r.policy) for r in comparison.metrics}
            changes = {f"val_change/{r.name}": mean(r.changes()) for r in comparison.metrics}
            self.scalars.add_scalars({**values, **changes}, self.iteration)
        self._keep(comparison, pictures)

    def _keep(self, comparison: Comparison, pictures: list[dict[str, torch.Tensor]]) -> None:
        figures = json.dumps(comparison.to_json(), indent=1)
        write_text(self.paths.folder / f"validation_{self.iteration:07d}.json", figures)
        rows = [self._captions(row) for row in pictures]
        if self.scalars is not None:
            for name, row in zip(comparison.pictures, rows, strict=True):
                self.scalars.add_image(f"val/{name}", captioned(row), self.iteration)
        if self.options.val.save_img:
            write_side_by_side(self.side_by_side_path, rows)

    @property
    def side_by_side_path(self) -> Path:
        """PNG of LR, base, GDPO and HR of every validation picture at the current iteration."""
        return self.paths.visualization / f"side_by_side_{self.iteration:07d}.png"

    @staticmethod
    def _captions(row: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        titles = {"lr": "LR (bicubic)", "base": "base", "policy": "GDPO", "hr": "HR"}
        return {titles[key]: image for key, image in row.items()}

    def save_model(self, name: str) -> None:
        """The LoRA in PEFT's format, as `models/<name>`."""
        save_lora(self.generator.unet, self.paths.models / name)
