"""BaseModel: the trainer shell shared by all stages. The loop, its logs, its checkpoints; what is
trained is a subclass's matter.

`Model` is BasicSR's word for a trainer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from tqdm import tqdm

from gdpo_sr.config.paths import ExperimentPaths
from gdpo_sr.config.schema import Options
from gdpo_sr.data.loader import make_loader
from gdpo_sr.models.build_data import build_degradation, build_training_set
from gdpo_sr.models.comparison import Comparison
from gdpo_sr.models.learning_rate import learning_rate_factor
from gdpo_sr.models.parameter_average import ParameterAverage
from gdpo_sr.models.random_sources import RandomSources
from gdpo_sr.models.stop_signal import StopSignal
from gdpo_sr.models.training_state import check_state, load_state, save_state, saved_states
from gdpo_sr.types import LossOutput, SRBatch
from gdpo_sr.utils.logger import ScalarLog, get_logger

LATEST = "lora_latest"
"""Name, under `models/`, of what the newest checkpoint trained."""


class BaseModel(ABC):
    """One training run.

    A subclass builds its networks in `build` (returning the trained parameters by name and the
    module to wrap for distributed
    training) and provides `compute_loss`, `validate` and `save_model`.

    Args:
        options: checked options.
        paths: folders of the run; nothing is written before `open_logs` and `fit`.
        accelerator: owner of devices, precision and processes.
    """

    random_names: tuple[str, ...] = ("degradation",)
    default_prompt = ""

    def __init__(self, options: Options, paths: ExperimentPaths, accelerator: Accelerator) -> None:
        self.options, self.paths, self.accelerator = options, paths, accelerator
        self.logger = get_logger(main_process=accelerator.is_main_process)
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.random = RandomSources(options.manual_seed, self.random_names, self.rank)
        torch.manual_seed(options.manual_seed)
        self.iteration = 0
        self.skipped_updates = 0
        self.last_comparison: Comparison | None = None
        network, self.trained = self.build()
        parameters = list(self.trained.values())
        self.optimizer = self._build_optimizer(parameters)
        self.network, self.optimizer = accelerator.prepare(network, self.optimizer)
        self.schedule = self._build_schedule()
        self.average = ParameterAverage(parameters, options.train.ema_decay)
        self.dataset = build_training_set(options)
        self.degrade = build_degradation(options)
        self.scalars: ScalarLog | None = None

    # What a stage provides -------------------------------------------------------------------

    @abstractmethod
    def build(self) -> tuple[nn.Module, dict[str, nn.Parameter]]:
        """The network that is optimized and its trained parameters by name."""

    @abstractmethod
    def compute_loss(self, batch: SRBatch) -> LossOutput:
        """Loss of one batch, with a graph, and what to log."""

    @abstractmethod
    def validate(self) -> None:
        """Measure, report and keep the figures of the current weights."""

    @property
    @abstractmethod
    def side_by_side_path(self) -> Path:
        """Picture of the last validation."""

    @abstractmethod
    def save_model(self, name: str) -> None:
        """Write what users load, as `models/<name>`."""

    # Construction ----------------------------------------------------------------------------

    def _build_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        o = self.options.train.optim_g
        return torch.optim.AdamW(
            parameters, lr=o.lr, betas=o.betas, weight_decay=o.weight_decay, eps=o.eps
        )

    def _build_schedule(self) -> torch.optim.lr_scheduler.LambdaLR:
        train = self.options.train

        def factor(step: int) -> float:
            return learning_rate_factor(
                step,
                train.total_iter,
                train.scheduler.warmup_iter,
                train.scheduler.type,
                train.scheduler.eta_min / train.optim_g.lr,
            )

        return torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    # Loop ------------------------------------------------------------------------------------

    @property
    def draws_per_update(self) -> int:
        """Training pictures of one update, over all processes."""
        o = self.options
        return o.datasets.train.batch_size * o.train.accumulation * self.world

    def _batches(self) -> Any:
        o = self.options.datasets.train
        loader = make_loader(
            self.dataset,
            o.batch_size,
            o.num_workers,
            self.iteration * self.draws_per_update,
            self.rank,
            self.world,
        )
        return iter(loader)

    def to_batch(self, item: dict[str, Any]) -> SRBatch:
        """A loader's batch on the device, degraded here if it holds HR pictures only."""
        hr = item["hr"].to(self.accelerator.device)
        if "lr" in item:
            lr = item["lr"].to(self.accelerator.device)
        else:
            lr = self.degrade(hr, self.random["degradation"])
        return SRBatch(lr, hr, [self.default_prompt] * len(hr), list(item["name"]))

    def open_logs(self) -> None:
        """Write the log file and TensorBoard events from here on; the run's folders must exist."""
        if self.accelerator.is_main_process:
            self.logger = get_logger(self.paths.log / "train.log")
            if self.options.logger.use_tb_logger:
                self.scalars = ScalarLog(self.paths.log / "tensorboard")

    def fit(self) -> bool:
        """Train to the end. Returns False if a signal stopped the run; its state is saved then."""
        o = self.options
        if self.iteration == 0:
            self.validate()
        batches = self._batches()
        bar = tqdm(
            total=o.train.total_iter,
            initial=self.iteration,
            desc=o.name,
            unit="it",
            disable=not (o.logger.show_progress and self.accelerator.is_main_process),
        )
        with StopSignal() as stop, bar:
            while self.iteration < o.train.total_iter:
                logs = self._update(batches)
                self._report(logs, bar)
                done = self.iteration == o.train.total_iter
                if o.val.val_freq and self.iteration % o.val.val_freq == 0 and not done:
                    self.validate()
                if self.iteration % o.logger.save_checkpoint_freq == 0 or done or stop.requested:
                    self.save_checkpoint()
                if stop.requested and not done:
                    self.logger.info(
                        "stopped at iteration %d; --auto_resume goes on", self.iteration
                    )
                    return False
        self.validate()
        return True

    def _update(self, batches: Any) -> dict[str, float]:
        """One optimizer update over `accumulation` batches; mean logs."""
        count = self.options.train.accumulation
        logs: list[dict[str, float]] = []
        for index in range(count):
            batch = self.to_batch(next(batches))
            last = index == count - 1
            with nullcontext() if last else self.accelerator.no_sync(self.network):
                with self.accelerator.autocast():
                    output = self.compute_loss(batch)
                self.accelerator.backward(output.loss / count)
            values = {"loss": output.loss.detach(), **output.logs}
            logs.append({name: float(value) for name, value in values.items()})
        merged = {name: _finite_mean([entry[name] for entry in logs]) for name in logs[0]}
        merged["gradient_norm"] = self._apply_gradients()
        merged["lr"] = self.schedule.get_last_lr()[0]
        merged["skipped_updates"] = float(self.skipped_updates)
        self.iteration += 1
        return merged

    def _apply_gradients(self) -> float:
        """Clip, step, average; an update with a non-finite gradient is skipped and counted."""
        limit = self.options.train.grad_clip or math.inf
        norm = self.accelerator.clip_grad_norm_(list(self.trained.values()), limit)
        value = float(norm) if norm is not None else math.nan
        if math.isfinite(value) or self.accelerator.scaler is not None:
            self.optimizer.step()
            self.average.update()
        else:
            self.skipped_updates += 1
        self.optimizer.zero_grad()
        self.schedule.step()
        return value

    def _report(self, logs: dict[str, float], bar: tqdm) -> None:
        bar.update()
        bar.set_postfix_str(self.progress_text(logs), refresh=False)
        if self.scalars is not None:
            self.scalars.add_scalars({f"train/{k}": v for k, v in logs.items()}, self.iteration)
        if self.iteration % self.options.logger.print_freq == 0:
            figures = " ".join(f"{name} {value:.4g}" for name, value in logs.items())
            self.logger.info("iteration %d: %s", self.iteration, figures)

    def progress_text(self, logs: dict[str, float]) -> str:
        """What the progress bar shows behind rate and time left."""
        return f"loss {logs['loss']:.4f}"

    # Checkpoints -----------------------------------------------------------------------------

    def save_checkpoint(self) -> None:
        """Everything the run needs to go on, then the model that users load."""
        random = gather_object([self.random.state_dict()])
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "iteration": self.iteration,
                "skipped_updates": self.skipped_updates,
                "draws": self.iteration * self.draws_per_update,
                "trained": {name: p.detach().cpu() for name, p in self.trained.items()},
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "average": self.average.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else {},
                "random": random,
            }
            keep = self.options.logger.keep_checkpoints
            save_state(self.paths.training_states, self.iteration, state, keep)
            with self.average.applied():
                self.save_model(LATEST)
        self.accelerator.wait_for_everyone()

    def resume(self) -> bool:
        """Go on from `path.resume_state`, else from the run's newest complete checkpoint. False if
        there is none.

        Raises:
            CheckpointError: the state belongs to another architecture or batch layout.
        """
        given = self.options.path.resume_state
        folders = saved_states(self.paths.training_states)
        if given is None and not folders:
            return False
        folder = Path(given) if given is not None else folders[-1]
        self._load_state(load_state(folder), str(folder))
        self.logger.info("resumed from %s at iteration %d", folder, self.iteration)
        return True

    def _load_state(self, state: dict[str, Any], source: str) -> None:
        shapes = {name: p.shape for name, p in self.trained.items()}
        check_state(state, source, shapes, self.world, self.draws_per_update)
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state["trained"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.random.load_state_dict(state["random"][self.rank])
        self.iteration, self.skipped_updates = state["iteration"], state["skipped_updates"]

    def close(self) -> None:
        """Close the log of scalars."""
        if self.scalars is not None:
            self.scalars.close()


def _finite_mean(values: list[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan
