"""What turns gradients of the generator's trained parameters into an update of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from gdpo_sr.config.run_options import RunOptions
from gdpo_sr.stage1.side_network import build_optimizer
from gdpo_sr.trainer.gradient_average import average_gradients, share_from_main
from gdpo_sr.trainer.learning_rate import learning_rate_of
from gdpo_sr.trainer.parameter_average import ParameterAverage
from gdpo_sr.trainer.spread_optimizer import spread


class WeightUpdate:
    """Optimizer, learning rate schedule, clipping and moving average.

    Args:
        parameters: what is trained; every process takes the main one's values.
        train: options of the run.
        accelerator: owner of devices, precision and processes.

    Attributes:
        average: moving average of the parameters.
        skipped: updates whose gradient was not finite, so far.
    """

    def __init__(
        self, parameters: list[nn.Parameter], train: RunOptions, accelerator: Accelerator
    ) -> None:
        self.parameters, self.accelerator = parameters, accelerator
        self.limit = train.grad_clip or math.inf
        self.skipped = 0
        share_from_main(parameters, accelerator)
        optimizer = build_optimizer(parameters, train.optim_g)
        self.spread = spread(optimizer, train.grad_clip, accelerator)
        self.optimizer = optimizer if self.spread else accelerator.prepare_optimizer(optimizer)
        self.schedule = LambdaLR(self.optimizer, learning_rate_of(train))
        self.average = ParameterAverage(parameters, train.ema_decay)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.schedule.get_last_lr()[0]

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss` to those of the parameters."""
        (self.spread or self.accelerator).backward(loss)

    def step(self) -> float:
        """Clip, step, average; an update with a non-finite gradient is skipped and counted.

        Returns the gradient's norm before clipping.
        """
        norm = self.spread.step() if self.spread else self._step()
        finite = math.isfinite(norm)
        if finite:
            self.average.update()
        self.skipped += not finite
        self.schedule.step()
        return norm

    def _step(self) -> float:
        average_gradients(self.parameters, self.accelerator)
        found = self.accelerator.clip_grad_norm_(self.parameters, self.limit)
        norm = float(found) if found is not None else math.nan
        if math.isfinite(norm) or self.accelerator.scaler is not None:
            self.optimizer.step()  # a scaler skips by itself, and adapts
        self.optimizer.zero_grad()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Everything but the parameters; all processes call this together."""
        scaler = self.accelerator.scaler
        return {
            "skipped_updates": self.skipped,
            "optimizer": (self.spread or self.optimizer).state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the parameters have been restored before."""
        (self.spread or self.optimizer).load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped_updates"]
