"""Gradient of a group's loss with the activations of a few candidates in memory at a time.

It equals that of the whole group up to rounding, and memory does not grow with G.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from torch import nn

from gdpo_sr.group.errors import at_least_float32
from gdpo_sr.group.group_update import GroupUpdate
from gdpo_sr.losses.group_losses import GroupLoss
from gdpo_sr.types import LossOutput

Gradients = list[torch.Tensor | None]


class ChunkedBackward:
    """Adds the gradient of a loss of groups to `parameters`, `chunk` inputs per pass of the UNet.

    A loss with a margin takes one forward pass (ALGORITHM: section 3, last identity). The gradient
    of a picture's loss is k times that of its margin; that of the margin is a sum over inputs which
    are independent of each other, so they can be passed back one by one, and k is known when all
    have been predicted. Any other loss takes two passes: predictions without a graph, from which
    follows what every prediction weighs in the loss, then each again with a graph.

    Gradients are those of this process; nothing is averaged here. Where `backward` takes them away,
    to other processes, a picture's cannot be scaled afterwards, and any loss takes two passes.

    Args:
        loss: of the groups.
        parameters: of the policy.
        chunk: inputs per forward and backward pass.
        accelerator: owner of precision and loss scale.
        backward: adds the gradient of what it is given and leaves none in `parameters`; None: the
            accelerator's, which leaves it there.
    """

    def __init__(
        self,
        loss: GroupLoss,
        parameters: list[nn.Parameter],
        chunk: int,
        accelerator: Accelerator,
        backward: Callable[[torch.Tensor], None] | None = None,
    ) -> None:
        self.loss, self.parameters, self.chunk = loss, parameters, chunk
        self.accelerator, self.backward = accelerator, backward or accelerator.backward
        self.in_two_passes = loss.margin is None or backward is not None

    def __call__(self, update: GroupUpdate, count: int = 1) -> LossOutput:
        """Loss without a graph, and what to log; the gradient is that of loss / count."""
        passes = self._two_passes if self.in_two_passes else self._one_pass
        return passes(update, count)

    def _parts(self, update: GroupUpdate, picture: slice) -> Iterator[tuple[slice, slice]]:
        """(picture, rows) of every chunk of a picture."""
        for start in range(0, update.noisy.shape[1], self.chunk):
            yield picture, slice(start, start + self.chunk)

    def _predict(self, update: GroupUpdate, part: tuple[slice, slice]) -> torch.Tensor:
        with self.accelerator.autocast():
            return at_least_float32(update.predict(*part))

    def _backward(self, prediction: torch.Tensor, gradient: torch.Tensor, count: int) -> None:
        """Pass `gradient` back through `prediction`; with fp16 it is scaled as a loss is."""
        self.backward((prediction * gradient).sum() / count)

    def _loss_gradient(
        self, update: GroupUpdate, found: torch.Tensor
    ) -> tuple[LossOutput, torch.Tensor]:
        leaf = found.clone().requires_grad_()
        output = self.loss(update.signal(leaf))
        return LossOutput(output.loss.detach(), output.logs), _gradient(output.loss, leaf)

    # Two passes ------------------------------------------------------------------------------

    def _two_passes(self, update: GroupUpdate, count: int) -> LossOutput:
        parts = [part for p in _pictures(update) for part in self._parts(update, p)]
        found = update.noisy.new_zeros(update.noisy.shape)
        device = found.device
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            for part in parts:  # the second pass repeats the dropout of this one
                found[part] = self._predict(update, part)
        output, weights = self._loss_gradient(update, found)
        for part in parts:
            self._backward(self._predict(update, part), weights[part], count)
        return output

    # One pass --------------------------------------------------------------------------------

    def _one_pass(self, update: GroupUpdate, count: int) -> LossOutput:
        found = update.noisy.new_zeros(update.noisy.shape)
        directions = torch.zeros_like(found)
        before = self._take_gradients()
        own = []
        for picture in _pictures(update):
            for part in self._parts(update, picture):
                prediction = self._predict(update, part)
                found[part] = prediction.detach()
                directions[part] = self._direction(update, found, part)
                self._backward(prediction, directions[part], count)
            own.append(self._take_gradients())
        output, weights = self._loss_gradient(update, found)
        self._put_gradients(before, own, _ratios(weights, directions))
        return output

    def _direction(
        self, update: GroupUpdate, found: torch.Tensor, part: tuple[slice, slice]
    ) -> torch.Tensor:
        """Gradient of the margin at the predictions of `part`; no other row matters."""
        picture, rows = part
        leaf = found[picture].clone().requires_grad_()
        margin = self.loss.margin(update.signal(leaf, picture))
        return _gradient(margin.sum(), leaf)[:, rows]

    def _take_gradients(self) -> Gradients:
        taken = [p.grad for p in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        return taken

    @torch.no_grad()
    def _put_gradients(self, before: Gradients, own: list[Gradients], scales: torch.Tensor) -> None:
        """Gradient of every parameter: what there was, and each picture's times its scale."""
        for parameter, start, *parts in zip(self.parameters, before, *own, strict=True):
            sums = [part * k for part, k in zip(parts, scales, strict=True) if part is not None]
            sums += [] if start is None else [start]
            parameter.grad = sum(sums[1:], sums[0]) if sums else None


def _pictures(update: GroupUpdate) -> list[slice]:
    return [slice(b, b + 1) for b in range(len(update.noisy))]


def _gradient(value: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, leaf)[0]


def _ratios(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """k (B,) of a = k b, parallel for each picture; 0 where b is 0."""
    a, b = a.flatten(1), b.flatten(1)
    square = b.square().sum(1)
    return torch.where(square > 0, (a * b).sum(1) / square, 0)
