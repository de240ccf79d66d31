"""What a stage of training must and may provide; `BaseModel` does the rest."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from gdpo_sr.config.paths import ExperimentPaths
from gdpo_sr.config.schema import Options
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.trainer.optimization import NetworkUpdate
from gdpo_sr.trainer.random_sources import RandomSources
from gdpo_sr.trainer.report import Comparison, Pictures
from gdpo_sr.trainer.validation import PairedValidation
from gdpo_sr.types import LossOutput, SRBatch


class Stage(ABC):
    """A kind of training.

    A subclass builds its networks in `build`, which sets `generator` and `validation`, and provides
    `compute_loss` and `save_model`.

    Attributes:
        random_names: sources of randomness of the stage.
        result_name: what the trained network is called in tables and pictures.
        fitted_label: what is said of a metric that training looks at.
        latest: name, under `models/`, of what the newest checkpoint wrote for users.
        generator: the network that is trained.
        validation: compares it with its base.
        options, paths, accelerator, logger, random, iteration: of the run, set before `build`.
        trained: what `build` returned.
        weight_update: applies gradients to it.
        beside: updates of other networks that are trained with it, by name; filled in `build`.
    """

    random_names: tuple[str, ...] = ("degradation",)
    result_name = ""
    fitted_label = "trained"
    latest = "lora_latest"
    generator: NoiseAwareGenerator
    validation: PairedValidation
    options: Options
    paths: ExperimentPaths
    accelerator: Accelerator
    logger: logging.Logger
    random: RandomSources
    iteration: int
    trained: dict[str, nn.Parameter]
    weight_update: NetworkUpdate
    beside: dict[str, NetworkUpdate]

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

    # What it may provide ---------------------------------------------------------------------

    def prepare_update(self, batches: list[SRBatch]) -> list[Any]:
        """What `compute_loss` gets for each of the `accumulation` batches of one update."""
        return list(batches)

    def train_beside(self, count: int) -> dict[str, torch.Tensor]:
        """Backward pass of the networks in `beside`, on the batch of the last `compute_loss`.

        `count` batches make an update. Returns what to log.
        """
        return {}

    def after_update(self) -> None:  # noqa: B027, a stage may leave it out
        """Called after every optimizer update, `iteration` counting it."""

    def judge(self, comparison: Comparison, pictures: Pictures) -> dict[str, Any]:
        """Act on a validation (main process only). Returns what is kept beside its figures."""
        return {}

    def symptoms(self, logs: dict[str, float]) -> dict[str, str]:
        """What else is wrong with an update, and what to try."""
        return {}

    def progress(self, logs: dict[str, float]) -> dict[str, float]:
        """What the log's lines and the progress bar show behind the loss."""
        return {}

    def model_bytes(self) -> int:
        """About the size of what `save_model` writes."""
        return sum(4 * p.numel() for p in self.trained.values())

    def extra_state(self) -> dict[str, Any]:
        """What a state must hold besides weights, optimizers, schedules and randomness.

        All processes call this together.
        """
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore what `extra_state` returned."""
