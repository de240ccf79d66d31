"""From gradients of a network's trained parameters to an update of them: optimizer, schedule,
clipping, moving average; one `NetworkUpdate` for each network that is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn

from gdpo_sr.config.run_options import OptimizerOptions, RunOptions
from gdpo_sr.trainer.spread_optimizer import BUCKET, spread

HYPERPARAMETERS = ("lr", "betas", "weight_decay", "eps")
"""What a resumed run takes from its options, not from the saved optimizer."""


def learning_rate_of(train: RunOptions) -> Callable[[int], float]:
    """Learning rate at a step, relative to the full one, as the options say."""
    return partial(
        learning_rate_factor,
        total=train.total_iter,
        warmup=train.scheduler.warmup_iter,
        kind=train.scheduler.type,
        floor=train.scheduler.eta_min / train.optim_g.lr,
    )


def learning_rate_factor(step: int, total: int, warmup: int, kind: str, floor: float) -> float:
    """Learning rate at `step`, relative to the full one: linear warm-up, then constant or cosine
    down to `floor`.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if kind == "constant":
        return 1.0
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def build_optimizer(
    parameters: list[nn.Parameter], options: OptimizerOptions
) -> torch.optim.Optimizer:
    """AdamW as the options say."""
    return torch.optim.AdamW(
        parameters,
        lr=options.lr,
        betas=options.betas,
        weight_decay=options.weight_decay,
        eps=options.eps,
    )


class NetworkUpdate:
    """What is trained of one network, and how.

    One gradient scaler cannot serve two optimizers that step one after the other, so in fp16 every
    network has its own.

    Args:
        parameters: what is trained, by name; every process takes the main one's values.
        options: of the optimizer.
        train: options of the run.
        accelerator: owner of devices, precision and processes.
        ema_decay: of the moving average of the parameters; 0: none.

    Attributes:
        average: moving average of the parameters.
        skipped: updates whose gradient was not finite, so far.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        options: OptimizerOptions,
        train: RunOptions,
        accelerator: Accelerator,
        ema_decay: float = 0.0,
    ) -> None:
        self.parameters, self.accelerator = parameters, accelerator
        self.limit = train.grad_clip or math.inf
        self.skipped = 0
        share_from_main(self._values, accelerator)
        self.optimizer = build_optimizer(self._values, options)
        self.spread = spread(self.optimizer, train.grad_clip, accelerator)
        self.rate, self.factor, self.steps = options.lr, learning_rate_of(train), 0
        self._set_learning_rate()
        self.scaler = torch.amp.GradScaler(enabled=accelerator.scaler is not None)
        self.average = ParameterAverage(self._values, ema_decay)

    @property
    def _values(self) -> list[nn.Parameter]:
        return list(self.parameters.values())

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.rate * self.factor(self.steps)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss` to those of the parameters."""
        if self.spread:
            self.spread.backward(loss)
        else:
            self.scaler.scale(loss).backward()

    def step(self) -> float:
        """Clip, step, average; an update with a non-finite gradient is skipped and counted.

        Returns the gradient's norm before clipping.
        """
        norm = self.spread.step() if self.spread else self._step()
        finite = math.isfinite(norm)
        if finite:
            self.average.update()
        self.skipped += not finite
        self.steps += 1
        self._set_learning_rate()
        return norm

    def _step(self) -> float:
        average_gradients(self._values, self.accelerator)
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self._values, self.limit))
        if math.isfinite(norm):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return norm

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether every trained number is finite."""
        return bool(torch.stack(torch._foreach_norm(self._values)).isfinite().all())

    def state_dict(self) -> dict[str, Any]:
        """Everything but the parameters; all processes call this together."""
        return {
            "skipped_updates": self.skipped,
            "optimizer": (self.spread or self.optimizer).state_dict(),
            "schedule": {"last_epoch": self.steps},
            "average": self.average.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the parameters have been restored before.

        Learning rate, betas, decay and schedule stay as the options of this run say.
        """
        self._load_optimizer(state["optimizer"])
        self.steps = int(state["schedule"]["last_epoch"])
        self._set_learning_rate()
        self.average.load_state_dict(state.get("average", {}))
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        # states of version 0.1 call the second network's count "skipped"
        self.skipped = int(state.get("skipped_updates", state.get("skipped", 0)))

    def _load_optimizer(self, saved: dict[str, Any]) -> None:
        own = [{key: group[key] for key in HYPERPARAMETERS} for group in self._groups]
        (self.spread or self.optimizer).load_state_dict(saved)
        if self.spread is None:
            self._check_moments()
        for group, values in zip(self._groups, own, strict=True):
            group.update(values)

    def _check_moments(self) -> None:
        """Raise ValueError unless every moment has its parameter's shape: AdamW meets them at its
        next step.
        """
        for parameter, values in self.optimizer.state.items():
            shapes = [values[name].shape for name in ("exp_avg", "exp_avg_sq")]
            if any(shape != parameter.shape for shape in shapes) or values["step"].numel() != 1:
                raise ValueError(f"moments {shapes} of a parameter {tuple(parameter.shape)}")

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def _set_learning_rate(self) -> None:
        for group in self._groups:
            group["lr"] = self.learning_rate


class ParameterAverage:
    """Exponential moving average of `parameters` with `decay` per update; decay 0 follows them
    exactly and keeps no copy.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.average = [p.detach().clone() for p in parameters] if decay > 0 else []

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current values."""
        for average, parameter in zip(self.average, self.parameters, strict=bool(self.average)):
            average.lerp_(parameter, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the parameters hold their averages."""
        if not self.average:
            yield
            return
        current = [p.detach().clone() for p in self.parameters]
        self._copy(self.average)
        try:
            yield
        finally:
            self._copy(current)

    @torch.no_grad()
    def _copy(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        """The averages."""
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, list[torch.Tensor]]) -> None:
        """Restore what `state_dict` returned. Where it kept none, the average starts at the
        parameters, which have been restored before.
        """
        values = state.get("average") or [p.detach() for p in self.parameters]
        for average, saved in zip(self.average, values, strict=bool(self.average)):
            average.copy_(saved)


# Between processes; no network is wrapped for distributed training ---------------------------


@torch.no_grad()
def average_gradients(parameters: list[nn.Parameter], accelerator: Accelerator) -> None:
    """Replace every gradient by its mean over processes; a missing one counts as 0."""
    if accelerator.num_processes == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([p.grad for p in parameters]):
        flat = accelerator.reduce(torch.cat([g.flatten() for g in bucket]), "mean")
        parts = flat.split([g.numel() for g in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def share_from_main(parameters: list[nn.Parameter], accelerator: Accelerator) -> None:
    """Give every process the main process's values."""
    if accelerator.num_processes > 1:
        for parameter in parameters:
            parameter.copy_(broadcast(parameter.detach().clone()))


def _buckets(tensors: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
