"""BaseModel: the trainer shell shared by all stages. The loop; what is trained is a subclass's
matter.

`Model` is BasicSR's word for a trainer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from gdpo_sr.config.paths import ExperimentPaths
from gdpo_sr.config.schema import Options
from gdpo_sr.data.loader import LOST_WORKER, is_lost_worker, make_loader
from gdpo_sr.generators.remembered import without_dropout
from gdpo_sr.trainer.build_data import build_degradation, build_training_set
from gdpo_sr.trainer.health import Health, causes_of
from gdpo_sr.trainer.optimization import NetworkUpdate
from gdpo_sr.trainer.processes import agree, spreads_weights
from gdpo_sr.trainer.random_sources import RandomSources
from gdpo_sr.trainer.report import (
    Comparison,
    mean,
    write_figures,
    write_pictures,
)
from gdpo_sr.trainer.resumable import Resumable
from gdpo_sr.trainer.stop_signal import StopSignal
from gdpo_sr.trainer.training_log import TrainingLog
from gdpo_sr.types import LossOutput, ProcessError, SRBatch
from gdpo_sr.utils.logger import get_logger
from gdpo_sr.utils.timing import Timer


class BaseModel(Resumable):
    """One training run: a stage, its data and its loop.

    Args:
        options: checked options.
        paths: folders of the run; nothing is written before `open_logs` and `fit`.
        accelerator: owner of devices, precision and processes.

    Attributes:
        timer: seconds spent in parts of the update.
        finished: whether `fit` reached the end.
        stop_early: ends the loop after the current update; set by a stage.
    """

    def __init__(self, options: Options, paths: ExperimentPaths, accelerator: Accelerator) -> None:
        self.options, self.paths, self.accelerator = options, paths, accelerator
        self.logger = get_logger(main_process=accelerator.is_main_process)
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.random = RandomSources(options.manual_seed, self.random_names, self.rank, self.world)
        torch.manual_seed(options.manual_seed)
        self.iteration = 0
        self.stop_early, self.finished = False, False
        self.last_comparison: Comparison | None = None
        self.timer = Timer(accelerator.device)
        self.beside: dict[str, NetworkUpdate] = {}
        self.trained = self.build()
        train = options.train
        self.weight_update = NetworkUpdate(
            self.trained, train.optim_g, train, accelerator, train.ema_decay
        )
        self.dataset = build_training_set(options)
        self.degrade = build_degradation(options)
        self.log = TrainingLog(options, self.logger)
        self.states = self.open_states()
        self.health = Health(train.divergence, train.total_iter, self.logger)

    # Data ------------------------------------------------------------------------------------

    @property
    def draws_per_update(self) -> int:
        """Training pictures of one update, over all processes."""
        o = self.options
        return o.datasets.train.batch_size * o.train.accumulation * self.world

    def _batches(self) -> Iterator[dict[str, Any]]:
        o = self.options.datasets.train
        drawn = self.iteration * self.draws_per_update
        loader = make_loader(
            self.dataset, o.batch_size, o.num_workers, drawn, self.rank, self.world
        )
        return iter(loader)

    def to_batch(self, item: dict[str, Any]) -> SRBatch:
        """A loader's batch on the device, degraded here if it holds HR pictures only."""
        hr = item["hr"].to(self.accelerator.device)
        if "lr" in item:
            lr = item["lr"].to(self.accelerator.device)
        else:
            lr = self.degrade(hr, self.random["degradation"])
        prompts = self.generator.prompts_of(item.get("caption"), len(hr))
        return SRBatch(lr, hr, prompts, list(item["name"]))

    # Loop ------------------------------------------------------------------------------------

    def open_logs(self) -> None:
        """Write the log file and TensorBoard events from here on; the run's folders must exist."""
        if self.accelerator.is_main_process:
            self.log.open(self.paths.log, self.iteration, self.options.model_dump(mode="json"))

    def close(self) -> None:
        """Close the logs."""
        self.log.close()

    def fit(self, stop: StopSignal | None = None) -> bool:
        """Train to the end. Returns False if a signal stopped the run; its state is saved then.

        Args:
            stop: of the program, which has entered it; None: one of its own.
        """
        alone = self.world == 1
        try:
            with StopSignal(at_once=alone) if stop is None else nullcontext(stop) as self.stop:
                self.finished = self._fit()
        except KeyboardInterrupt:
            self.logger.info("stopped at %d: %s", self.iteration, self.way_on())
            raise
        except RuntimeError as error:
            if not is_lost_worker(error):
                raise
            raise ProcessError(LOST_WORKER) from error
        return self.finished

    def _fit(self) -> bool:
        if self.iteration == 0 or (self._validation_is_due and not self.stop_early):
            self.validate()
        if not self._train():
            self.logger.info("stopped at %d: %s", self.iteration, self.way_on())
            return False
        if not self._validation_is_due or not self.stop_early:
            self.validate()
        return True

    def _train(self) -> bool:
        """The updates. False if a signal ended them."""
        o, batches = self.options, self._batches()
        with self.stop.patient(), self._progress_bar() as bar:
            while self.iteration < o.train.total_iter and not self.stop_early:
                logs, stopping = agree(self._update(batches), self.stop.requested, self.accelerator)
                self.log.update(self.iteration, logs, self.progress(logs), bar)
                self._check_health(logs)
                done = self.iteration == o.train.total_iter
                regular = self.iteration % o.logger.save_checkpoint_freq == 0
                if regular or stopping or done or self._validation_is_due:
                    self.save_checkpoint()  # before a validation, which may take long
                if stopping:
                    return False
                if self._validation_is_due and not done:
                    with self.stop.at_once() if self.world == 1 else nullcontext():
                        self.validate()
                    if self.stop_early:  # a resumed run must know
                        self.save_checkpoint()
        return True

    def _check_health(self, logs: dict[str, float]) -> None:
        """End the run if too many updates went wrong; the same in all processes."""
        finite = all(update.is_finite() for update in [self.weight_update, *self.beside.values()])
        causes = {**causes_of(logs, finite), **self.symptoms(logs)}
        good = self.states.healthy
        folder = None if good is None else self.states.folder_of(good)
        self.health.note(self.iteration, causes)
        self.health.check(self.iteration, folder)

    @property
    def _validation_is_due(self) -> bool:
        """Between the first and the last one. A resumed run validates again where it was saved:
        it may have been killed before it did.
        """
        o, i = self.options, self.iteration
        return 0 < i < o.train.total_iter and o.val.val_freq > 0 and i % o.val.val_freq == 0

    def _progress_bar(self) -> tqdm:
        o = self.options
        hidden = not (o.logger.show_progress and self.accelerator.is_main_process)
        total, done = o.train.total_iter, self.iteration
        return tqdm(total=total, initial=done, desc=o.name, unit="it", disable=hidden)

    def _update(self, batches: Iterator[dict[str, Any]]) -> dict[str, float]:
        """One optimizer update over `accumulation` batches; mean logs, and seconds of the whole
        update.
        """
        count = self.options.train.accumulation
        self.timer.start(self.log.is_due(self.iteration + 1))
        with self.timer("data"):
            drawn = [self.to_batch(next(batches)) for _ in range(count)]
        with self.accelerator.autocast():
            items = self.prepare_update(drawn)
        merged = mean_logs([self._learn(item, count) for item in items])
        with self.timer("step"):
            merged.update(self._step())
        self.iteration += 1
        self.after_update()
        return {**merged, **self.timer.logs()}

    def _learn(self, item: Any, count: int) -> dict[str, float]:
        """Gradients of one of `count` items; its logs."""
        output = self._backward(item, count)
        values = {"loss": output.loss.detach(), **output.logs, **self.train_beside(count)}
        return {name: float(value) for name, value in values.items()}

    def _backward(self, item: Any, count: int) -> LossOutput:
        """Loss and gradient of one of `count` items."""
        with self.accelerator.autocast():
            output = self.compute_loss(item)
        with self.timer("backward"):
            self.weight_update.backward(output.loss / count)
        return output

    def _step(self) -> dict[str, float]:
        """Update every network."""
        update = self.weight_update
        logs = {"lr": update.learning_rate, "gradient_norm": update.step()}
        logs["skipped_updates"] = float(update.skipped)
        for name, other in self.beside.items():
            logs[f"{name}_gradient_norm"] = other.step()
            logs[f"{name}_skipped_updates"] = float(other.skipped)
        return logs

    # Validation ------------------------------------------------------------------------------

    def validate(self) -> None:
        """Trained generator against base, same pictures, same noise: log, TensorBoard,
        `validation_*.json`, pictures.
        """
        main = self.accelerator.is_main_process
        if not main and not spreads_weights(self.accelerator):
            return
        average, autocast = self.weight_update.average.applied(), self.accelerator.autocast()
        with average, autocast, without_dropout(self.generator):
            comparison, pictures = self.validation.run(self.iteration)
        if not main:
            return
        self.last_comparison = comparison
        self.log.validation(comparison, pictures, self.result_name)
        verdict = self.judge(comparison, pictures)
        self.note_validation(comparison, verdict)
        write_figures(comparison, verdict, self.paths.folder)
        if self.options.val.save_img:
            write_pictures(pictures, self.result_name, self.side_by_side_path)

    @property
    def side_by_side_path(self) -> Path:
        """PNG of LR, base, result and HR of every validation picture at the current iteration."""
        return self.paths.visualization / f"side_by_side_{self.iteration:07d}.png"


def mean_logs(entries: list[dict[str, float]]) -> dict[str, float]:
    """What the batches of one update logged: sums of seconds, means of the rest."""
    merged = {name: mean([entry[name] for entry in entries]) for name in entries[0]}
    seconds = [name for name in merged if name.startswith("seconds_")]
    return {**merged, **{name: sum(entry[name] for entry in entries) for name in seconds}}
