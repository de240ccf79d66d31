"""Gradients and weights that processes share; no network is wrapped for distributed training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn

BUCKET = 2**24
"""Entries that are sent at once."""


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
