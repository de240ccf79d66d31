"""Passes of networks as CUDA graphs: the host starts one replay instead of thousands of kernels.

A recording is kernels and addresses. Weights that change in place are seen by the next replay; all
else that decides what a pass computes is part of the key by which it is found: shapes, addresses of
the weights, adapters on or off and their strengths, autocast. Off CUDA nothing is recorded.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import nn

from gdpo_sr.generators.remembered import modules_of, tensors_of

Tensors = tuple[torch.Tensor, ...]
Pass = Callable[..., Tensors]
"""Tensors to tensors, by the weights of one network; draws nothing."""
KEPT = 16
"""Recordings; the one that was not used for longest goes first."""
_SEEN = 256


class Recorder:
    """Calls passes of networks and replays those that come again.

    A pass runs as it is when its key is new, is recorded when it comes a second time, and replayed
    from then on. What cannot be recorded runs as it is: inputs that need a gradient, dropout, and
    whatever comes between a recorded pass with a graph and its backward pass, for all recordings
    share their memory.

    Attributes:
        gradients: whether passes with a graph are recorded.
        device: kind of device.
        kinds: make a recording of a pass without, with a graph.
    """

    def __init__(self) -> None:
        self.gradients, self.device = True, "cuda"
        self.kinds: tuple[Callable[..., Pass], Callable[..., Pass]]
        self.kinds = ReplayedPass, ReplayedGradient
        self._found: OrderedDict[Hashable, Pass] = OrderedDict()
        self._seen: set[Hashable] = set()
        self._pool: Any = None

    def __call__(
        self, network: nn.Module, name: Hashable, function: Pass, *inputs: torch.Tensor
    ) -> Tensors:
        """`function(*inputs)`; `name` tells passes of one network apart and names every number
        that `function` computes with beside the inputs.
        """
        if not self._can_record(network, inputs):
            return function(*inputs)
        weights = _trained(network)
        if weights and not self.gradients:
            return function(*inputs)
        key = (name, bool(weights), _kind(inputs), _autocast(), *_state(network))
        if key in self._found:
            self._found.move_to_end(key)
            return self._found[key](*inputs)
        if key not in self._seen:
            return self._first_time(key, function, inputs)
        return self._record(key, function, inputs, weights)

    def _can_record(self, network: nn.Module, inputs: Tensors) -> bool:
        return (
            all(x.device.type == self.device and not x.requires_grad for x in inputs)
            and not any(getattr(found, "is_pending", False) for found in self._found.values())
            and not any(m.training and m.p > 0 for m in modules_of(network, nn.Dropout))
        )

    def _first_time(self, key: Hashable, function: Pass, inputs: Tensors) -> Tensors:
        if len(self._seen) >= _SEEN:
            self._seen.clear()
        self._seen.add(key)
        return function(*inputs)

    def _record(
        self, key: Hashable, function: Pass, inputs: Tensors, weights: list[torch.Tensor]
    ) -> Tensors:
        while len(self._found) >= KEPT:
            self._found.popitem(last=False)
        if self._pool is None and self.device == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
        try:
            kind = self.kinds[bool(weights)]
            self._found[key] = kind(function, inputs, self._pool, weights)
        except RuntimeError as error:
            self.clear()
            text = str(error).strip().partition("\n")[0]
            logging.getLogger("gdpo_sr").warning("no CUDA graph of %s: %s", key[0], text)
            self._found[key] = function
        return self._found[key](*inputs)

    def clear(self) -> None:
        """Give the memory of all recordings back."""
        self._found.clear()
        self._seen.clear()
        self._pool = None


class ReplayedPass:
    """A pass without a graph."""

    def __init__(self, function: Pass, inputs: Tensors, pool: Any, _: list[torch.Tensor]) -> None:
        self._inputs = [x.clone() for x in inputs]
        self._graph = torch.cuda.CUDAGraph()
        with _uncached_autocast(), torch.cuda.graph(self._graph, pool=pool):
            self._outputs = function(*self._inputs)

    def __call__(self, *inputs: torch.Tensor) -> Tensors:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return tuple(x.clone() for x in self._outputs)


class ReplayedGradient:
    """A pass, and its gradient for the weights that are trained."""

    def __init__(
        self, function: Pass, inputs: Tensors, pool: Any, weights: list[torch.Tensor]
    ) -> None:
        self.inputs, self.weights = [x.detach().clone() for x in inputs], weights
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        self._token: weakref.ref[_Token] | None = None
        with _uncached_autocast():
            self._warm_up(function)
            with torch.cuda.graph(self.forward, pool=pool):
                outputs = function(*self.inputs)
            with torch.cuda.graph(self.backward, pool=pool):
                self.gradients = self._gradients(outputs)
        self.outputs = [x.detach() for x in outputs]

    def _gradients(self, outputs: Tensors) -> tuple[torch.Tensor | None, ...]:
        return torch.autograd.grad(outputs, self.weights, self.given, allow_unused=True)

    def _warm_up(self, function: Pass) -> None:
        """What libraries prepare when a kernel first runs may not be in a recording."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            outputs = function(*self.inputs)
            self.given = [torch.zeros_like(x) for x in outputs]
            self._gradients(outputs)
        torch.cuda.current_stream().wait_stream(side)

    @property
    def is_pending(self) -> bool:
        """Whether activations of a forward pass still wait for their backward pass."""
        return self._token is not None and self._token() is not None

    def __call__(self, *inputs: torch.Tensor) -> Tensors:
        token = _Token()
        self._token = weakref.ref(token)
        return _Replay.apply(self, token, inputs, *self.weights)


class _Token:
    """Lives as long as a backward pass may come."""


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, replayed: ReplayedGradient, token: _Token, inputs: Tensors, *_: torch.Tensor
    ) -> Tensors:
        ctx.replayed, ctx.token = replayed, token
        for own, given in zip(replayed.inputs, inputs, strict=True):
            own.copy_(given)
        replayed.forward.replay()
        return tuple(x.clone() for x in replayed.outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.token is None:
            raise RuntimeError("a recorded pass has one backward pass")
        replayed, ctx.token = ctx.replayed, None
        for own, gradient in zip(replayed.given, given, strict=True):
            own.copy_(gradient)
        replayed.backward.replay()
        return None, None, None, *(None if g is None else g.clone() for g in replayed.gradients)


def _uncached_autocast() -> torch.autocast:
    """As it is, but casts of weights are part of the pass: in a recording they see new weights."""
    dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    return torch.autocast("cuda", dtype, enabled, cache_enabled=False)


def _trained(network: nn.Module) -> list[torch.Tensor]:
    """Weights that a pass has a graph for."""
    if not torch.is_grad_enabled():
        return []
    return [p for p in tensors_of(network) if p.requires_grad]


def _kind(inputs: Tensors) -> Hashable:
    return tuple((x.shape, x.dtype, x.device) for x in inputs)


def _autocast() -> Hashable:
    return torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")


def _state(network: nn.Module) -> tuple[Hashable, ...]:
    """Where the weights are, which of them are trained, and what its adapters are set to."""
    tensors = tuple((x.data_ptr(), x.requires_grad) for x in tensors_of(network))
    return tensors, _adapters(network)


def _adapters(network: nn.Module) -> Hashable:
    if not getattr(network, "peft_config", None):
        return ()
    from peft.tuners.tuners_utils import BaseTunerLayer

    return tuple(
        (
            layer._disable_adapters,
            tuple(layer.active_adapters),
            tuple(layer.merged_adapters),
            tuple(layer.scaling.items()),
        )
        for layer in modules_of(network, BaseTunerLayer)
    )
