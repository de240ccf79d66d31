"""ZeRO stage 2 by DeepSpeed: gradients and optimizer states of what is trained lie in pieces in the
processes; the weights stay whole.

accelerate's launcher starts the processes; its own wrapper of DeepSpeed is not used. That takes one
module per run, turns off autocast and steps inside `backward`, while here two networks are trained
through methods of their parts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import compare_versions, is_deepspeed_available, patch_environment
from torch import nn

from gdpo_sr.types import OptionError

NEEDED = "0.19.8"
"""The version this was tested with. Those before 0.19 ignore `managed_gradient_accumulation`, and
lose gradients where several batches make an update.
"""
BUCKET = 2**24
"""Entries that are sent to other processes at once."""
PREFIX = "ACCELERATE_DEEPSPEED_"


def _asked_for() -> bool:
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def spreads_states(accelerator: Accelerator) -> bool:
    """Whether the accelerate configuration asks for DeepSpeed, and there are several processes."""
    return _asked_for() and accelerator.num_processes > 1


@contextmanager
def without_wrapper(mixed_precision: str) -> Iterator[None]:
    """Inside, accelerate builds an Accelerator of plain processes where DeepSpeed is asked for.

    Raises:
        OptionError: DeepSpeed is missing, or asked for more than ZeRO stage 2.
    """
    if not _asked_for():
        yield
        return
    _check(mixed_precision)
    with patch_environment(ACCELERATE_USE_DEEPSPEED="false"):
        yield


def _check(mixed_precision: str) -> None:
    remedy = "or take options/accelerate/ddp.yaml"
    if not is_deepspeed_available() or compare_versions("deepspeed", "<", NEEDED):
        found = version("deepspeed") if is_deepspeed_available() else "not installed"
        raise OptionError(
            f"deepspeed {NEEDED} or newer is needed and is {found}: "
            f"pip install 'gdpo-sr[deepspeed]', {remedy}"
        )
    if mixed_precision == "fp16":
        raise OptionError(
            f"train.mixed_precision: fp16 cannot be used with DeepSpeed here: take bf16, {remedy}"
        )
    known = {
        "ZERO_STAGE": "2",
        "OFFLOAD_OPTIMIZER_DEVICE": "none",
        "OFFLOAD_PARAM_DEVICE": "none",
        "CONFIG_FILE": "none",
    }
    for name, value in known.items():
        given = os.environ.get(PREFIX + name, value)
        if given != value:
            raise OptionError(
                f"{PREFIX}{name} is {given} and can be {value} only: take "
                f"options/accelerate/deepspeed_zero2.yaml as it is, {remedy}"
            )


class SpreadOptimizer:
    """Backward passes and updates of parameters whose optimizer lies in W processes.

    Process r keeps the r-th of W equal slices of all parameters' states, the parameters flattened
    and laid end to end. A backward pass sends gradients to where their states are as they arise, so
    `.grad` is None outside of it; their sum over several passes is kept until `step`.

    Args:
        optimizer: AdamW with one group. From here on it holds this process's slice only.
        grad_clip: largest gradient norm; 0: no clipping.
        accelerator: owner of devices and processes.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, grad_clip: float, accelerator: Accelerator
    ) -> None:
        os.environ.setdefault("DS_ACCELERATOR", accelerator.device.type)
        import deepspeed

        deepspeed.utils.logger.setLevel("WARNING")
        [group] = optimizer.param_groups
        self.parameters: list[nn.Parameter] = list(group["params"])
        self.accelerator, self.optimizer = accelerator, optimizer
        self.in_update = False
        self.engine, *_ = deepspeed.initialize(
            model=nn.ParameterList(self.parameters),
            optimizer=optimizer,
            config=_configuration(grad_clip),
            dist_init_required=False,
        )

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss`, averaged over processes.

        DeepSpeed's process group waits ten minutes on GPUs; the accelerator's waits as long as a
        validation by the main process may take, and so goes first in an update.
        """
        if not self.in_update:
            self.accelerator.wait_for_everyone()
        self.in_update = True
        self.engine.backward(loss)

    def step(self) -> float:
        """Clip and update; gradients that are not finite are dropped instead.

        Returns the gradient's norm before clipping; not finite if the update was skipped.
        """
        self.engine.step()
        self.in_update = False
        return float(self.engine.get_global_grad_norm())

    def state_dict(self) -> dict[str, Any]:
        """What the optimizer's own would be if it were whole, on the CPU; all processes call this
        together.
        """
        count = len(self.parameters)
        state: dict[int, dict[str, torch.Tensor]] = {i: {} for i in range(count)}
        for name, value in self.optimizer.state.get(self._slice, {}).items():
            for i, part in enumerate(self._gathered(value)):
                state[i][name] = part.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        groups[0]["params"] = list(range(count))
        return {
            "state": {i: values for i, values in state.items() if values},
            "param_groups": groups,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take this process's slice of a whole optimizer's state, and of the parameters, which have
        been restored before.
        """
        saved = state["state"]
        names = saved[0] if saved else ()
        slices = {name: self._own([saved[i][name] for i in sorted(saved)]) for name in names}
        groups = [{**state["param_groups"][0], "params": [0]}]
        own = {"state": {0: slices} if slices else {}, "param_groups": groups}
        self.optimizer.load_state_dict(own)
        self.engine.optimizer.refresh_fp32_params()

    @property
    def _slice(self) -> torch.Tensor:
        return self.optimizer.param_groups[0]["params"][0]

    def _gathered(self, value: torch.Tensor) -> list[torch.Tensor]:
        """Every parameter's part of slices; a scalar belongs to each of them."""
        if value.dim() == 0:
            return [value.cpu()] * len(self.parameters)
        sizes = [p.numel() for p in self.parameters]
        flat = self.accelerator.gather(value)[: sum(sizes)].cpu()
        parts = flat.split(sizes)
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def _own(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """The reverse, padded with zeros as DeepSpeed pads the flattened parameters."""
        if parts[0].dim() == 0:
            return parts[0].clone()
        flat, size = torch.cat([part.flatten() for part in parts]), self._slice.numel()
        padding = size * self.accelerator.num_processes - len(flat)
        slices = nn.functional.pad(flat, (0, padding)).split(size)
        return slices[self.accelerator.process_index].clone()


def _configuration(grad_clip: float) -> dict[str, Any]:
    """DeepSpeed's options. Batches, precision and schedule are not its business here."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # asked for, and counted with only
        "managed_gradient_accumulation": False,  # `step` ends an update, after any number of passes
        "gradient_clipping": grad_clip,
        "zero_allow_untested_optimizer": True,  # torch's AdamW: nothing is compiled on a GPU
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": 2,
            "overlap_comm": False,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
        },
    }


def spread(
    optimizer: torch.optim.Optimizer, grad_clip: float, accelerator: Accelerator
) -> SpreadOptimizer | None:
    """`optimizer` over all processes if the configuration asks for it."""
    if not spreads_states(accelerator):
        return None
    return SpreadOptimizer(optimizer, grad_clip, accelerator)
