"""A spread optimizer against a whole one, in every process that torchrun starts; fails by an
assertion.

ACCELERATE_USE_CPU=true ACCELERATE_USE_DEEPSPEED=true \
  torchrun --standalone --nproc_per_node 2 tests/spread_processes.py

Updates of three backward passes each; of network `b` twice per pass, of `unused` never, so that its
gradient is 0 and AdamW lets it decay. In update 2 one process has a gradient that is not a number.
"""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from torch import nn

from gdpo_sr.trainer.optimization import average_gradients
from gdpo_sr.trainer.spread_optimizer import SpreadOptimizer, spread, without_wrapper

CLIP, PASSES, BROKEN = 0.05, 3, 2


def networks() -> nn.ModuleDict:
    """72 numbers in tensors of odd sizes, cut in the middle of one by two processes."""
    torch.manual_seed(0)
    return nn.ModuleDict({"a": nn.Linear(5, 7), "b": nn.Linear(7, 3), "unused": nn.Linear(2, 2)})


def adamw(parts: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(parts.parameters(), lr=1e-2, weight_decay=0.1)


def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


def loss_of(parts: nn.ModuleDict, update: int, index: int, rank: int) -> torch.Tensor:
    """Loss of one pass; other numbers in each process."""
    draws = torch.Generator().manual_seed(100 * update + 10 * index + rank)
    hidden = parts["a"](torch.randn(4, 5, generator=draws))
    out = parts["b"](hidden.tanh()) + parts["b"](hidden.relu())
    broken = math.nan if (update, index, rank) == (BROKEN, 0, 1) else 1.0
    return broken * out.square().mean() / PASSES


def whole_update(parts: nn.ModuleDict, optimizer: torch.optim.Optimizer, update: int) -> float:
    accelerator = Accelerator()
    for index in range(PASSES):
        loss_of(parts, update, index, accelerator.process_index).backward()
    parameters = list(parts.parameters())
    average_gradients(parameters, accelerator)
    norm = float(nn.utils.clip_grad_norm_(parameters, CLIP))
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return norm


def spread_update(parts: nn.ModuleDict, optimizer: SpreadOptimizer, update: int) -> float:
    for index in range(PASSES):
        optimizer.backward(loss_of(parts, update, index, optimizer.accelerator.process_index))
        assert all(p.grad is None for p in parts.parameters())
    return optimizer.step()


def assert_equal(parts: nn.Module, others: nn.Module) -> None:
    for one, other in zip(parts.parameters(), others.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def main() -> None:
    torch.set_num_threads(1)
    with without_wrapper("no"):
        accelerator = Accelerator()
    assert accelerator.num_processes == 2
    whole, pieces = networks(), networks()
    one, inner = adamw(whole), adamw(pieces)
    other = spread(inner, CLIP, accelerator)
    rates = schedule(one), schedule(inner)
    for update in range(5):
        norms = whole_update(whole, one, update), spread_update(pieces, other, update)
        assert math.isfinite(norms[0]) == math.isfinite(norms[1]) == (update != BROKEN)
        assert update == BROKEN or abs(norms[0] - norms[1]) < 1e-5
        assert_equal(pieces, whole)
        for rate in rates:
            rate.step()
    kept = sum(v.numel() for values in inner.state.values() for v in values.values() if v.dim())
    assert kept == 2 * sum(p.numel() for p in whole.parameters()) / 2  # two states, half of each

    state = other.state_dict()
    torch.testing.assert_close(state["state"], one.state_dict()["state"], rtol=1e-5, atol=1e-7)
    assert state["param_groups"] == one.state_dict()["param_groups"]

    again = networks()
    third = spread(adamw(again), CLIP, accelerator)
    again.load_state_dict(whole.state_dict())  # as a resumed run: weights, then the states
    third.load_state_dict(one.state_dict())
    whole_update(whole, one, 5)
    spread_update(again, third, 5)
    assert_equal(again, whole)
    accelerator.end_training()


if __name__ == "__main__":
    main()
