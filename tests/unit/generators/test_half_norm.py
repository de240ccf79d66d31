"""Group normalisation by sums of channels against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gdpo_sr.generators.half_norm import HalfNorm, group_norm, use_half_norm

SHAPES = [(2, 8, 5, 7), (1, 12, 9), (3, 4, 6, 6)]


def inputs(shape, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(shape, generator=rng, dtype=dtype) + 1
    weight, bias = (torch.randn(shape[1], generator=rng, dtype=dtype) for _ in range(2))
    return x, weight, bias


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_values_and_gradients_are_torchs(shape, groups):
    found, expected = [], []
    for norm, values in ((group_norm, found), (F.group_norm, expected)):
        x, weight, bias = (t.requires_grad_() for t in inputs(shape))
        y = norm(x, groups, weight, bias, 1e-6)
        grad = torch.autograd.grad(y, (x, weight, bias), torch.cos(y.detach() * 3))
        values += [y, *grad]
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_torchs(dtype):
    """Of pictures whose mean is ten times their deviation, too."""
    x, weight, bias = inputs((2, 32, 24, 24), torch.float32)
    for offset in (0, 10):
        half = (x / 3 + offset).to(dtype)
        exact = F.group_norm(half.double(), 8, weight.double(), bias.double(), 1e-6)
        found = group_norm(half, 8, weight, bias, 1e-6)
        assert found.dtype == dtype
        torch_error = (F.group_norm(half, 8, weight.to(dtype), bias.to(dtype)) - exact).abs().mean()
        assert (found - exact).abs().mean() < torch_error


def test_the_layout_stays():
    x, weight, bias = inputs((2, 8, 6, 6), torch.float32)
    last = x.to(memory_format=torch.channels_last)
    found = group_norm(last, 4, weight, bias, 1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(found, F.group_norm(x, 4, weight, bias, 1e-6), atol=1e-5)


def test_only_what_needs_a_gradient_gets_one():
    x, weight, bias = inputs((2, 8, 6, 6))
    y = group_norm(x.requires_grad_(), 4, weight, bias, 1e-6)
    y.sum().backward()
    assert x.grad is not None
    assert weight.grad is None


def test_layers_change_in_place_and_compute_the_same_off_cuda():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.GroupNorm(1, 8, affine=False)
    )
    x = torch.rand(1, 3, 5, 5)
    before, names = network(x), list(network.state_dict())
    use_half_norm([network])
    assert [type(m) for m in network] == [nn.Conv2d, HalfNorm, nn.GroupNorm]
    assert list(network.state_dict()) == names
    assert torch.equal(network(x), before)
