"""The lean forward pass computes what PEFT's does, and sees weights that change in place."""

from __future__ import annotations

import copy

import pytest
import torch

from gdpo_sr.checkpoints.lora import (
    adapter_active,
    adapter_layers,
    adapters_disabled,
    add_lora,
    lora_parameters,
    merge_lora,
)
from tests.unit.checkpoints.test_lora import build_unet, fill


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    shapes = (2, 4, 8, 8), (2, 5, 8)
    latents, text = (torch.randn(shape, generator=rng).to(dtype) for shape in shapes)
    return latents, text


def answer(unet, precision: str) -> torch.Tensor:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    latents, text = inputs(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        return unet(latents, 100, text).sample


def pefts(unet):
    """The same network with PEFT's own forward pass."""
    other = copy.deepcopy(unet)
    for layer in adapter_layers(other):
        layer.__class__ = type(layer).__mro__[2]
        assert type(layer).__module__.startswith("peft.")
    return other


@pytest.fixture
def tuned():
    unet = build_unet()
    add_lora(unet, rank=2, alpha=6, dropout=0.0)
    fill(unet)
    return unet


@pytest.mark.parametrize("precision", ["float32", "autocast", "bf16", "half base"])
def test_it_is_pefts(tuned, precision: str):
    """Outputs and gradients; half precision to a few of its steps."""
    if precision == "bf16":
        tuned.to(torch.bfloat16)
    if precision == "half base":
        for parameter in tuned.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
        precision = "bf16"
    other = pefts(tuned)
    found, expected = answer(tuned, precision), answer(other, precision)
    close = {"atol": 1e-6, "rtol": 1e-5} if precision == "float32" else {"atol": 3e-2, "rtol": 3e-2}
    torch.testing.assert_close(found, expected, **close)
    found.float().square().sum().backward()
    expected.float().square().sum().backward()
    norms = []
    for a, b in zip(lora_parameters(tuned), lora_parameters(other), strict=True):
        norms.append(float((a.grad - b.grad).norm() / b.grad.norm().clamp_min(1e-6)))
    assert max(norms) < (1e-4 if precision == "float32" else 0.2)


@pytest.mark.parametrize("state", ["off", "second alone", "both", "fused"])
def test_every_state_is_pefts(tuned, state: str):
    add_lora(tuned, rank=3, name="second")
    fill(tuned)
    if state == "both":
        tuned.set_adapter(["default", "second"])
    if state == "fused":
        tuned.fuse_lora()
    other = pefts(tuned)
    with torch.no_grad():
        if state == "off":
            with adapters_disabled(tuned), adapters_disabled(other):
                found, expected = answer(tuned, "float32"), answer(other, "float32")
            torch.testing.assert_close(found, answer(build_unet(), "float32"))
        elif state == "second alone":
            with adapter_active(tuned, "second"), adapter_active(other, "second"):
                found, expected = answer(tuned, "float32"), answer(other, "float32")
        else:
            found, expected = answer(tuned, "float32"), answer(other, "float32")
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "autocast"])
def test_weights_changed_in_place_are_seen_by_the_next_pass(tuned, precision: str):
    """As an optimizer changes them, between two passes of the same network."""
    before = answer(tuned, precision).detach()
    with torch.no_grad():
        for parameter in lora_parameters(tuned):
            parameter.mul_(0.0)
    after = answer(tuned, precision).detach()
    assert (after - before).abs().max() > 1e-2
    assert torch.equal(after, answer(build_unet(), precision))


def test_merging_leaves_no_lora_layer(tuned):
    with torch.no_grad():
        expected = answer(tuned, "float32")
        merge_lora(tuned)
        torch.testing.assert_close(answer(tuned, "float32"), expected, atol=1e-5, rtol=1e-5)
    assert not adapter_layers(tuned) and not lora_parameters(tuned)
