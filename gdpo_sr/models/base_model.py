"""BaseModel: the trainer shell shared by all stages. The loop, its logs, its checkpoints; what is trained is a subclass's matter.

`Model` is BasicSR's word for a trainer.
"""

from __future__ import annotations

import math
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
from gdpo_sr.models.parameter_average import ParameterAverage
from gdpo_sr.models.random_sources import RandomSources
from gdpo_sr.models.stop_signal import StopSignal
from gdpo_sr.models.training_state import load_state, save_state, saved_states
from gdpo_sr.types import CheckpointError, LossOutput, SRBatch
from gdpo_sr.utils.logger import ScalarLog, get_logger


class BaseModel:
    """One training run.

    A subclass builds its networks in `build` (returning the trained parameters by name and the module to wrap for distributed
    training) and provides `compute_loss`, `validate` and `save_model`.

    Args:
        options: checked options.
        paths: prepared folders of the run.
        accelerator: owner of devices, precision and processes.
    """

    random_names: tuple[str, ...] = ("degradation",)
    default_prompt = ""

    def __init__(
        self, options: Options, paths: ExperimentPaths, accelerator: Accelerator
    ) -> None:
        self.options, self.paths, self.accelerator = options, paths, accelerator
        self.logger = get_logger(paths.log / "train.log", accelerator.is_main_process)
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.random = RandomSources(options.manual_seed, self.random_names, self.rank)
        torch.manual_seed(options.manual_seed)
        self.iteration = 0
        self.skipped_updates = 0
        network, self.trained = self.build()
        parameters = list(self.trained.values())
        self.optimizer = self._build_optimizer(parameters)
        self.network, self.optimizer = accelerator.prepare(network, self.optimizer)
        self.schedule = self._build_schedule()
        self.average = ParameterAverage(parameters, options.train.ema_decay)
        self.dataset = build_training_set(options)
        self.degrade = build_degradation(options)
        self.scalars = self._open_scalars()

    # What a stage provides -------------------------------------------------------------------

    def build(self) -> tuple[nn.Module, dict[str, nn.Parameter]]:
        """The network that is optimized and its trained parameters by name."""
        raise NotImplementedError

    def compute_loss(self, batch: SRBatch) -> LossOutput:
        """Loss of one batch, with a graph, and what to log."""
        raise NotImplementedError

    def validate(self) -> None:
        """Measure, report and keep the figures of the current weights."""
        raise NotImplementedError

    def save_model(self, name: str) -> None:
        """Write what users load, as `models/<name>`."""
        raise NotImplementedError

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

    def _open_scalars(self) -> ScalarLog | None:
        wanted = self.options.logger.use_tb_logger and self.accelerator.is_main_process
        return ScalarLog(self.paths.log / "tensorboard") if wanted else None

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
                    self.logger.info("stopped at iteration %d; --auto_resume goes on", self.iteration)
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
            with self._gradient_sync(last):
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

    def _gradient_sync(self, last: bool) -> Any:
        if last:
            return self.accelerator.autocast()
        return self.accelerator.no_sync(self.network)

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
                self.save_model("lora_latest")
        self.accelerator.wait_for_everyone()

    def resume(self) -> bool:
        """Go on from `path.resume_state`, else from the run's newest complete checkpoint. False if there is none.

        Raises:
            CheckpointError: the state belongs to another architecture or batch layout.
        """
        given = self.options.path.resume_state
        folders = saved_states(self.paths.training_states)
        if given is None and not folders:
            return False
        from pathlib import Path

        folder = Path(given) if given is not None else folders[-1]
        self._load_state(load_state(folder), str(folder))
        self.logger.info("resumed from %s at iteration %d", folder, self.iteration)
        return True

    def _load_state(self, state: dict[str, Any], source: str) -> None:
        self._check_state(state, source)
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

    def _check_state(self, state: dict[str, Any], source: str) -> None:
        shapes = {name: p.shape for name, p in self.trained.items()}
        saved = {name: p.shape for name, p in state["trained"].items()}
        if shapes != saved:
            different = sorted(n for n in shapes.keys() | saved.keys() if shapes.get(n) != saved.get(n))
            raise CheckpointError(
                f"'{source}' was saved for other weights ({len(different)} differ, first {different[0]}): "
                "use the base and lora.rank of that run, or another name to start afresh"
            )
        if len(state["random"]) != self.world:
            raise CheckpointError(
                f"'{source}' was saved by {len(state['random'])} processes, this run has {self.world}: "
                "start the same number"
            )
        if state["draws"] != state["iteration"] * self.draws_per_update:
            raise CheckpointError(
                f"'{source}' was saved with another batch_size or accumulation: use the same values"
            )

    def close(self) -> None:
        """Close the log of scalars."""
        if self.scalars is not None:
            self.scalars.close()


def learning_rate_factor(
    step: int, total: int, warmup: int, kind: str, floor: float
) -> float:
    """Learning rate at `step`, relative to the full one: linear warm-up, then constant or cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if kind == "constant":
        return 1.0
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def _finite_mean(values: list[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan
