"""BaseModel: the trainer shell shared by all stages. The loop, its logs, its checkpoints; what is
trained is a subclass's matter.

`Model` is BasicSR's word for a trainer.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
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
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.stage2.reference import without_dropout
from gdpo_sr.trainer.build_data import build_degradation, build_training_set
from gdpo_sr.trainer.comparison import Comparison, mean
from gdpo_sr.trainer.processes import agree
from gdpo_sr.trainer.random_sources import RandomSources
from gdpo_sr.trainer.sharding import spreads_weights
from gdpo_sr.trainer.stop_signal import StopSignal
from gdpo_sr.trainer.training_state import check_state, load_state, save_state, saved_states
from gdpo_sr.trainer.validation import PairedValidation, Pictures
from gdpo_sr.trainer.validation_report import (
    add_to_tensorboard,
    log_comparison,
    write_figures,
    write_pictures,
)
from gdpo_sr.trainer.weight_update import WeightUpdate
from gdpo_sr.types import LossOutput, SRBatch
from gdpo_sr.utils.logger import ScalarLog, get_logger

LATEST = "lora_latest"
"""Name, under `models/`, of the adapters of the newest checkpoint."""


class BaseModel(ABC):
    """One training run.

    A subclass builds its networks in `build`, which sets `generator` and `validation`, and provides
    `compute_loss` and `save_model`.

    Args:
        options: checked options.
        paths: folders of the run; nothing is written before `open_logs` and `fit`.
        accelerator: owner of devices, precision and processes.

    Attributes:
        random_names: sources of randomness of the stage.
        result_name: what the trained generator is called in tables and pictures.
        fitted_label: what is said of a metric that training looks at.
        latest: name, under `models/`, of what the newest checkpoint wrote for users.
        generator: the network that is trained.
        validation: compares it with its base.
        weight_update: applies gradients to it.
        seconds: time spent in parts of the last update.
    """

    random_names: tuple[str, ...] = ("degradation",)
    result_name = ""
    fitted_label = "trained"
    latest = LATEST
    generator: NoiseAwareGenerator
    validation: PairedValidation

    def __init__(self, options: Options, paths: ExperimentPaths, accelerator: Accelerator) -> None:
        self.options, self.paths, self.accelerator = options, paths, accelerator
        self.logger = get_logger(main_process=accelerator.is_main_process)
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.random = RandomSources(options.manual_seed, self.random_names, self.rank, self.world)
        torch.manual_seed(options.manual_seed)
        self.iteration = 0
        self.stop_early = False
        self.last_comparison: Comparison | None = None
        self.seconds: dict[str, float] = defaultdict(float)
        self.trained = self.build()
        self.weight_update = WeightUpdate(list(self.trained.values()), options.train, accelerator)
        self.dataset = build_training_set(options)
        self.degrade = build_degradation(options)
        self.scalars: ScalarLog | None = None

    # What a stage provides -------------------------------------------------------------------

    @abstractmethod
    def build(self) -> dict[str, nn.Parameter]:
        """Build the networks. Returns the trained parameters by name.

        Their gradients are averaged over processes here, not by wrapping a module.
        """

    @abstractmethod
    def compute_loss(self, item: Any) -> LossOutput:
        """Loss of one item of `prepare_update`, with a graph, and what to log."""

    @abstractmethod
    def save_model(self, name: str) -> None:
        """Write what users load, as `models/<name>`."""

    # What a stage may provide ----------------------------------------------------------------

    def prepare_update(self, batches: list[SRBatch]) -> list[Any]:
        """What `compute_loss` gets for each of the `accumulation` batches of one update."""
        return list(batches)

    def train_beside(self, count: int) -> dict[str, torch.Tensor]:
        """Backward pass of a second network on the batch of the last `compute_loss`.

        `count` batches make an update. Returns what to log.
        """
        return {}

    def step_beside(self) -> dict[str, float]:
        """Update the second network at the end of an update. Returns what to log."""
        return {}

    @property
    def beside(self) -> dict[str, nn.Parameter]:
        """Trained parameters of the second network, by name; saved with the run."""
        return {}

    def after_update(self) -> None:  # noqa: B027, a stage may leave it out
        """Called after every optimizer update, `iteration` counting it."""

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides weights, optimizer, schedule and randomness.

        All processes call this together.
        """
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore what `extra_state` returned."""

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
        prompts = self.generator.prompts_of(item.get("caption"), len(hr))
        return SRBatch(lr, hr, prompts, list(item["name"]))

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
            while self.iteration < o.train.total_iter and not self.stop_early:
                logs = self._update(batches)
                logs, stopping = agree(logs, stop.requested, self.accelerator)
                self._report(logs, bar)
                done = self.iteration == o.train.total_iter
                if o.val.val_freq and self.iteration % o.val.val_freq == 0 and not done:
                    self.validate()
                    if self.stop_early:
                        self.save_checkpoint()
                        return True
                if self.iteration % o.logger.save_checkpoint_freq == 0 or done or stopping:
                    self.save_checkpoint()
                if stopping and not done:
                    self.logger.info("stopped at %d; --auto_resume goes on", self.iteration)
                    return False
        self.validate()
        return True

    def _update(self, batches: Any) -> dict[str, float]:
        """One optimizer update over `accumulation` batches; mean logs."""
        self.seconds.clear()
        count = self.options.train.accumulation
        logs: list[dict[str, float]] = []
        with self.timed("data"):
            drawn = [self.to_batch(next(batches)) for _ in range(count)]
        with self.accelerator.autocast():
            items = self.prepare_update(drawn)
        for item in items:
            output = self._backward(item, count)
            values = {"loss": output.loss.detach(), **output.logs, **self.train_beside(count)}
            logs.append({name: float(value) for name, value in values.items()})
        merged = {name: mean([entry[name] for entry in logs]) for name in logs[0]}
        with self.timed("step"):
            merged["gradient_norm"] = self.weight_update.step()
            merged.update(self.step_beside())
        merged.update({f"seconds_{part}": seconds for part, seconds in self.seconds.items()})
        merged["lr"] = self.weight_update.learning_rate
        merged["skipped_updates"] = float(self.weight_update.skipped)
        self.iteration += 1
        self.after_update()
        return merged

    def _backward(self, item: Any, count: int) -> LossOutput:
        """Loss and gradient of one of `count` items."""
        with self.accelerator.autocast():
            output = self.compute_loss(item)
        with self.timed("backward"):
            self.weight_update.backward(output.loss / count)
        return output

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time inside to `seconds[part]`."""
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start

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

    # Validation ------------------------------------------------------------------------------

    def validate(self) -> None:
        """Trained generator against base, same pictures, same noise: log, TensorBoard,
        `validation_*.json`, pictures.
        """
        main = self.accelerator.is_main_process
        if not main and not spreads_weights(self.accelerator):
            return
        with self.weight_update.average.applied(), without_dropout(self.generator):
            comparison, pictures = self.validation.run(self.iteration)
        if not main:
            return
        self.last_comparison = comparison
        log_comparison(comparison, self.result_name, self.logger)
        verdict = self.judge(comparison, pictures)
        if self.scalars is not None:
            add_to_tensorboard(comparison, pictures, self.result_name, self.scalars)
        write_figures(comparison, verdict, self.paths.folder)
        if self.options.val.save_img:
            write_pictures(pictures, self.result_name, self.side_by_side_path)

    def judge(self, comparison: Comparison, pictures: Pictures) -> dict[str, Any]:
        """Act on a validation (main process only). Returns what is kept beside its figures."""
        return {}

    @property
    def side_by_side_path(self) -> Path:
        """PNG of LR, base, result and HR of every validation picture at the current iteration."""
        return self.paths.visualization / f"side_by_side_{self.iteration:07d}.png"

    # Checkpoints -----------------------------------------------------------------------------

    @property
    def _saved(self) -> dict[str, nn.Parameter]:
        return {**self.trained, **self.beside}

    def save_checkpoint(self) -> None:
        """Everything the run needs to go on, then the model that users load."""
        random = gather_object([self.random.state_dict()])
        weights, extra = self.weight_update.state_dict(), self.extra_state()
        if self.accelerator.is_main_process:
            state = {
                **weights,
                "iteration": self.iteration,
                "draws": self.iteration * self.draws_per_update,
                "trained": {name: p.detach().cpu() for name, p in self._saved.items()},
                "random": random,
                "extra": extra,
            }
            keep = self.options.logger.keep_checkpoints
            save_state(self.paths.training_states, self.iteration, state, keep)
            with self.weight_update.average.applied():
                self.save_model(self.latest)
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
        shapes = {name: p.shape for name, p in self._saved.items()}
        check_state(state, source, shapes, self.draws_per_update)
        with torch.no_grad():
            for name, parameter in self._saved.items():
                parameter.copy_(state["trained"][name])
        self.weight_update.load_state_dict(state)
        self.random.load_state_dict(state["random"][self.rank % len(state["random"])])
        self.load_extra_state(state.get("extra", {}))
        self.iteration = state["iteration"]

    def close(self) -> None:
        """Close the log of scalars."""
        if self.scalars is not None:
            self.scalars.close()
