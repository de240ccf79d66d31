"""Frozen weights that are rounded once: under autocast the same function, and nothing trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from gdpo_sr.checkpoints.lora import add_lora, lora_parameters
from gdpo_sr.config.load import load_options
from gdpo_sr.config.paths import ExperimentPaths
from gdpo_sr.stage2.gdpo_model import GDPOModel
from gdpo_sr.trainer.build_data import cast_frozen
from tests.integration.test_training import OPTIONS_FILE, overrides
from tests.unit.checkpoints.test_lean_lora import answer
from tests.unit.checkpoints.test_lora import build_unet, fill


def test_the_same_outputs_and_gradients():
    """Bit for bit: autocast rounds the same weights in every pass."""
    results = []
    for once in (False, True):
        unet = build_unet()
        add_lora(unet, rank=2)
        fill(unet)
        if once:
            cast_frozen([unet], "bf16")
        found = answer(unet, "autocast")
        found.float().square().sum().backward()
        results.append([found.detach(), *(p.grad for p in lora_parameters(unet))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_what_is_trained_and_what_computes_in_float32_stay():
    unet = build_unet()
    add_lora(unet, rank=2)
    unet.conv_in.base_layer.requires_grad_(True)
    cast_frozen([unet], "bf16")
    kinds = {name: p.dtype for name, p in unet.named_parameters()}
    halves = {name for name, dtype in kinds.items() if dtype == torch.bfloat16}
    assert "conv_out.base_layer.weight" in halves and "time_embedding.linear_1.weight" in halves
    assert not any(".lora_" in name or "norm" in name for name in halves)
    assert "conv_in.base_layer.weight" not in halves
    before = build_unet()
    cast_frozen([before], "no")
    assert {p.dtype for p in before.parameters()} == {torch.float32}


@pytest.fixture
def precision():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield "bf16"
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_run_computes_what_it_did(base: Path, tmp_path: Path, monkeypatch, precision: str):
    """Loss and gradients of the first batch, and the validation, with and without."""
    results = []
    for once in (True, False):
        if not once:
            monkeypatch.setattr("gdpo_sr.stage2.gdpo_model.cast_frozen", lambda *_: None)
        changes = {"train__mixed_precision": precision, "datasets__val__max_images": 1}
        options = load_options(OPTIONS_FILE, overrides(base, tmp_path / str(once), **changes))
        paths = ExperimentPaths(options.path.experiments_root, options.name)
        model = GDPOModel(options, paths, Accelerator(mixed_precision=precision, cpu=True))
        weight = model.generator.unet.conv_out.base_layer.weight
        assert weight.dtype == (torch.bfloat16 if once else torch.float32)
        batch = model.to_batch(next(model._batches()))
        with model.accelerator.autocast():
            output = model.compute_loss(*model.prepare_update([batch]))
        output.loss.backward()
        with model.accelerator.autocast():
            comparison, _ = model.validation.run(0)
        gradients = [p.grad for p in model.trained.values()]
        results.append((output.loss.detach(), gradients, comparison.to_json()))
    (loss, gradients, figures), (other, others, expected) = results
    assert torch.equal(loss, other) and figures == expected
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))
