"""GDPOModel: stage 2, Group Direct Preference Optimization of the generator's LoRA (GDPO-SR section
3.2).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import nn

from gdpo_sr.checkpoints.load_adapter import continue_adapter
from gdpo_sr.checkpoints.lora import add_lora, save_lora
from gdpo_sr.checkpoints.meaning import Meaning, given_in, resume_meaning
from gdpo_sr.generators.one_step import NO_NOISE
from gdpo_sr.group.sample import Group
from gdpo_sr.group.step import GroupStep, ScoredGroup
from gdpo_sr.losses.preference import PreferenceLoss
from gdpo_sr.rewards.scoring import check_gradients
from gdpo_sr.stage2.build_rewards import build_loss, build_rewards
from gdpo_sr.stage2.group_logs import group_logs
from gdpo_sr.trainer.alarms import AlarmReport, Alarms
from gdpo_sr.trainer.base_model import BaseModel
from gdpo_sr.trainer.build_data import (
    build_base_generator,
    build_validation_metrics,
    build_validation_pairs,
    cast_frozen,
    set_up_networks,
    set_up_recorder,
)
from gdpo_sr.trainer.processes import (
    check_plain_processes,
    check_spread,
    shard_frozen,
    spreads_weights,
)
from gdpo_sr.trainer.report import Comparison
from gdpo_sr.trainer.validation import PairedValidation, Pictures
from gdpo_sr.types import CheckpointError, LossOutput, OptionError, SRBatch

DIVERSITY = (
    "network_g.t_add of 0 or more, or train.diversity.source: posterior (each candidate its own "
    "draw of the encoder's posterior) or t_add"
)
"""How candidates become different."""
BEST = "lora_best"
"""Name, under `models/`, of the best validated model before an alarm."""


class GDPOModel(BaseModel):
    """Samples groups with the reference, rewards them, and moves the policy towards the better
    candidates.

    The reference is the policy with its adapters switched off: one UNet in memory. What a step
    does is `gdpo_sr.group.step`; here is what feeds and records it.
    """

    random_names = ("degradation", "sampling", "update", "reward", "control")
    result_name = "GDPO"
    fitted_label = "rewarded"

    def build(self) -> dict[str, nn.Parameter]:
        """Generator, LoRA, rewards and validation."""
        o = self.options
        self.generator = build_base_generator(o.network_g).to(self.accelerator.device)
        unet = self.generator.unet
        if o.path.pretrain_lora is not None:
            continue_adapter(self.generator, o.path.pretrain_lora, given_in(o.network_g))
        else:
            add_lora(unet, o.train.lora.rank, o.train.lora.alpha, o.train.lora.dropout)
        self.meaning = Meaning.of(self.generator, o.network_g)
        set_up_networks([unet, self.generator.vae], o.train)
        set_up_recorder(self.generator, o.train)
        if spreads_weights(self.accelerator):
            check_spread(self.accelerator, o.train.channels_last, o.train.compile)
            shard_frozen(unet, self.accelerator)
            self.generator.recorder = None
        else:
            check_plain_processes(self.accelerator, "stage 2")
            cast_frozen([unet, self.generator.vae], self.accelerator.mixed_precision)
        device = str(self.accelerator.device)
        self.rewards = build_rewards(o.train.reward, device, self.random["reward"])
        self.loss = build_loss(o.train.loss)
        if self.loss.through_rewards:
            check_gradients(self.rewards, o.datasets.train.gt_size, device)
        if isinstance(self.loss, PreferenceLoss):
            self.loss.scale.reduce = self._mean_over_processes
        self._check_diversity()
        self.step = GroupStep(self.generator, self.rewards, self.loss, o.train, self.random)
        a = o.train.alarms
        self.alarms = Alarms(
            a.metric_limit, a.probe_limit, a.share, self.generator.pixels_per_latent
        )
        self.validation = PairedValidation(
            self.generator,
            build_validation_pairs(o),
            build_validation_metrics(o, self.rewards, device),
            set(self.rewards),
            o.val.noise_seed,
            o.val.num_noises,
            o.val.color_fix,
        )
        return {name: p for name, p in unet.named_parameters() if p.requires_grad}

    def _check_diversity(self) -> None:
        """Refuse what can teach a network without noise (OSEDiff, HYPIR, PiSA-SR) nothing."""
        train = self.options.train
        if self.generator.scheduler.config.t_add != NO_NOISE:
            return
        if train.diversity.source == "noise" and not self.loss.action_sigma:
            raise OptionError(
                f"t_add = {NO_NOISE}: this network gets no noise, so all candidates of a group "
                f"would be equal; use {DIVERSITY}"
            )
        if train.update_input == "candidate" and train.target == "noise" and not self.loss.acts:
            raise OptionError(
                f"t_add = {NO_NOISE}: this network gets no noise, so train.target noise is nothing "
                "that it could predict; use target: x0 and update_input: lr"
            )

    def _mean_over_processes(self, values: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(values, "mean")

    def prepare_update(self, batches: list[SRBatch]) -> list[ScoredGroup]:
        """Groups, scores and advantages of one update (ALGORITHM: section 3)."""
        items = []
        for batch in batches:
            on_host = batch.hr.cpu()
            with self.timer("sampling"):
                group = self.step.sample(batch)
            with self.timer("rewards"):
                items.append(self.step.score(group, batch.hr, on_host))
                if self.iteration == 0 and batch is batches[0]:
                    self._warn_of_hacks(group, batch)
        self.step.set_advantages(items, self.accelerator.gather)
        return items

    def _warn_of_hacks(self, group: Group, batch: SRBatch) -> None:
        liked = self.step.liked_hacks(group, batch.hr)
        if liked:
            gains = ", ".join(f"{name} {gain:+.1f}" for name, gain in liked.items())
            self.logger.warning(
                "what restores nothing raises the total reward of the first pictures (in spreads "
                "of a group): %s. Training may learn that; scripts/hack_table.py asks about more",
                gains,
            )

    def compute_loss(self, item: ScoredGroup) -> LossOutput:
        """Loss of the groups of one batch, and what to log."""
        with self.timer("update"):
            return self._with_logs(item, self.step(item))

    def _with_logs(self, item: ScoredGroup, output: LossOutput) -> LossOutput:
        return LossOutput(output.loss, {**output.logs, **group_logs(item, self.rewards)})

    def _backward(self, item: ScoredGroup, count: int) -> LossOutput:
        """With `train.update_chunk` a few candidates at a time."""
        chunk = self.options.train.update_chunk
        if chunk is None:
            return super()._backward(item, count)

        def backward(loss: torch.Tensor) -> None:
            self.weight_update.backward(loss / count)

        with self.timer("update"):
            output = self.step.backward(item, chunk, backward, self.accelerator.autocast)
        return self._with_logs(item, output)

    def extra_state(self) -> dict[str, Any]:
        """Automatic omega, and the best validation so far."""
        return {
            "meaning": self.meaning.settings(),
            "scale": self.loss.state_dict(),
            "alarms": self.alarms.state_dict(),
            "stop_early": self.stop_early,
        }

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `extra_state` returned."""
        if state.get("reference"):
            raise CheckpointError(
                "this state is of a run that refreshed its reference, which is gone: "
                "begin a new run with path.pretrain_lora on the old run's folder"
            )
        self.meaning = resume_meaning(self.generator, self.meaning, state.get("meaning"))
        self.loss.load_state_dict(state["scale"])
        self.alarms.load_state_dict(state["alarms"])
        self.stop_early = state["stop_early"]

    def symptoms(self, logs: dict[str, float]) -> dict[str, str]:
        """Rewards that say nothing of any candidate, and groups without any preference."""
        found = {}
        pictures = self.options.datasets.train.batch_size
        if logs["equal_groups"] >= pictures:
            found["all candidates of a group are equal"] = DIVERSITY
        for name in self.rewards:
            if math.isnan(logs[f"metric_{name}"]):
                found[f"reward {name} failed on every candidate"] = (
                    "datasets.train.gt_size as large as the metric needs, or another reward"
                )
            elif logs[f"tied_{name}"] == 1:
                found[f"reward {name} is the same for every candidate"] = (
                    "candidates that differ more (network_g.t_add), or another reward"
                )
        if logs["skipped_groups"] >= pictures:
            found["no group has a preference, so nothing is learnt"] = (
                "candidates that differ more (network_g.t_add), or other rewards"
            )
        return found

    def progress(self, logs: dict[str, float]) -> dict[str, float]:
        """The mean of every rewarded metric of the group."""
        return {name: logs[f"metric_{name}"] for name in self.rewards}

    def validate(self) -> None:
        """As any stage, and every process learns whether the run ends here."""
        super().validate()
        if self.options.train.alarms.stop and self.world > 1:
            [self.stop_early] = broadcast_object_list([self.stop_early])

    def judge(self, comparison: Comparison, pictures: Pictures) -> dict[str, Any]:
        """Look for reward hacking."""
        report = self.alarms.check(comparison, pictures)
        self._act_on(report)
        return {"alarm": report.to_json()}

    def _act_on(self, report: AlarmReport) -> None:
        """Warn; with `alarms.stop` end the run at an alarm and keep the best model before it."""
        self.log.add({m.name: m.worse for m in report.measures}, "val_alarm", self.iteration)
        if report.raised:
            self.logger.warning("validation %d: %s", self.iteration, report.text())
        if not self.options.train.alarms.stop:
            return
        if report.raised:
            self.stop_early = True
        elif report.best and self.iteration:
            with self.weight_update.average.applied():
                self.save_model(BEST)

    def save_model(self, name: str) -> None:
        """The LoRA in PEFT's format, as `models/<name>`."""
        save_lora(self.generator.unet, self.paths.models / name, self.meaning)
