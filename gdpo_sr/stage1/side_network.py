"""A second network that is trained beside the generator, with its own optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from gdpo_sr.config.run_options import OptimizerOptions
from gdpo_sr.trainer.gradient_average import average_gradients, share_from_main
from gdpo_sr.trainer.spread_optimizer import spread


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


class SideTrainer:
    """Accumulates, averages, clips and applies the gradients of a second network.

    The generator's optimizer is accelerate's. One gradient scaler cannot serve two optimizers that
    step one after the other, so in fp16 this network has its own.

    Args:
        parameters: of the network, by name.
        options: of its optimizer.
        factor: learning rate at a step, relative to the full one.
        grad_clip: largest gradient norm; 0: no clipping.
        accelerator: owner of devices and processes.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        options: OptimizerOptions,
        factor: Callable[[int], float],
        grad_clip: float,
        accelerator: Accelerator,
    ) -> None:
        self.parameters = parameters
        self.accelerator = accelerator
        self.limit = grad_clip or math.inf
        self.skipped = 0
        values = list(parameters.values())
        share_from_main(values, accelerator)
        self.optimizer = build_optimizer(values, options)
        self.spread = spread(self.optimizer, grad_clip, accelerator)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.scaler = torch.amp.GradScaler(enabled=accelerator.scaler is not None)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss`."""
        if self.spread:
            self.spread.backward(loss)
        else:
            self.scaler.scale(loss).backward()

    def step(self) -> float:
        """One update with the gradients so far; one that is not finite is skipped and counted.

        Returns the gradient's norm before clipping.
        """
        norm = self.spread.step() if self.spread else self._step()
        self.skipped += not math.isfinite(norm)
        self.schedule.step()
        return norm

    def _step(self) -> float:
        values = list(self.parameters.values())
        average_gradients(values, self.accelerator)
        self.scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(values, self.limit))
        if math.isfinite(norm):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Everything but the parameters; all processes call this together."""
        return {
            "optimizer": (self.spread or self.optimizer).state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        (self.spread or self.optimizer).load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped"]
