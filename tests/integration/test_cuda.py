"""The same numbers on a CUDA device as on the CPU, and the options that only matter there.

    python -m pytest -m gpu tests/integration/test_cuda.py

Random numbers are drawn on the CPU, so both devices see the same noise. TF32 is switched off here:
what is left between the two is the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from gdpo_sr import inference
from gdpo_sr.checkpoints.lora import adapters_disabled, add_lora, lora_parameters
from gdpo_sr.generators.half_norm import use_half_norm
from gdpo_sr.generators.recorded import ReplayedGradient, ReplayedPass
from gdpo_sr.metrics import create_metric
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.stage1.naosd_model import NAOSDModel
from gdpo_sr.stage2.gdpo_model import GDPOModel
from gdpo_sr.train import main as train
from tests.integration import test_stage1 as stage1
from tests.integration import test_training as stage2

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
VAL = Path(__file__).resolve().parents[2] / "datasets" / "example" / "val_lr"


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Products in float32 on the GPU too."""
    owners = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [owner.allow_tf32 for owner in owners]
    for owner in owners:
        owner.allow_tf32 = False
    yield
    for owner, value in zip(owners, before, strict=True):
        owner.allow_tf32 = value


def on(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerators built from here on own this device."""
    AcceleratorState._reset_state(True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", str(device == "cpu").lower())


def move_policy(model: GDPOModel | NAOSDModel) -> None:
    """Adapters a little away from the reference, the same on every device."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.trained.items():
            if ".lora_B." in name:
                parameter.copy_(0.01 * torch.randn(parameter.shape, generator=rng))


def gradient(model: GDPOModel | NAOSDModel) -> tuple[float, torch.Tensor]:
    """Loss and gradient of the first batch."""
    move_policy(model)
    [item] = model.prepare_update([model.to_batch(next(model._batches()))])
    output = model._backward(item, 1)
    found = [p.grad.flatten().cpu() for p in model.trained.values() if p.grad is not None]
    return float(output.loss.detach()), torch.cat(found)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over that of `expected`."""
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    "changes", [{}, {"train__update_input": "candidate"}, {"train__cell_size": 32}]
)
def test_stage_2_computes_the_cpus_gradient(base: Path, tmp_path: Path, monkeypatch, changes):
    found = {}
    for device in ("cpu", "cuda"):
        on(device, monkeypatch)
        model = stage2.build(base, tmp_path / device, **changes)
        assert model.accelerator.device.type == device
        found[device] = gradient(model)
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=1e-3)
    assert relative(found["cuda"][1], found["cpu"][1]) < 1e-2


def test_stage_1_computes_the_cpus_gradient(base: Path, tmp_path: Path, monkeypatch):
    found = {}
    for device in ("cpu", "cuda"):
        on(device, monkeypatch)
        found[device] = gradient(stage1.build(base, tmp_path / device))
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=1e-3)
    assert relative(found["cuda"][1], found["cpu"][1]) < 1e-2


def test_a_compiled_unet_computes_the_same_gradient(base: Path, tmp_path: Path, monkeypatch):
    on("cuda", monkeypatch)
    expected = gradient(stage2.build(base, tmp_path / "eager"))
    found = gradient(stage2.build(base, tmp_path / "compiled", train__compile=True))
    assert found[0] == pytest.approx(expected[0], rel=1e-3)
    assert relative(found[1], expected[1]) < 1e-2


def run_of(base: Path, folder: Path, **changes) -> tuple[GDPOModel, dict[str, torch.Tensor]]:
    """A run of six updates and what it trained."""
    model = stage2.build(base, folder, train__total_iter=6, **changes)
    move_policy(model)
    assert model.fit()
    return model, stage2.trained(model)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_recorded_passes_train_the_same(base, tmp_path, monkeypatch, precision):
    """In every update the weights have changed in place since the passes were recorded."""
    on("cuda", monkeypatch)
    same = {"train__mixed_precision": precision}
    _, plain = run_of(base, tmp_path / "plain", train__cuda_graphs=False, **same)
    model, found = run_of(base, tmp_path / "graphs", **same)
    kinds = [type(one) for one in model.generator.recorder._found.values()]
    assert ReplayedGradient in kinds
    assert ReplayedPass in kinds
    values = [torch.cat([v.flatten().cpu() for v in x.values()]) for x in (found, plain)]
    assert relative(*values) < (1e-4 if precision == "no" else 1e-2)


def test_recorded_pictures_are_those_of_the_passes_themselves(base, tmp_path, monkeypatch):
    on("cuda", monkeypatch)
    pipe = OneStepSRPipeline.from_pretrained(base).to("cuda")
    pipe.set_progress_bar_config(disable=True)
    picture = torch.rand(3, 16, 16)

    def restore() -> torch.Tensor:
        rng = torch.Generator().manual_seed(0)
        return pipe(picture, generator=rng, output_type="pt").images

    def compare() -> torch.Tensor:
        pictures = [restore() for _ in range(4)]
        recorder, pipe.generator.recorder = pipe.generator.recorder, None
        expected = restore()
        pipe.generator.recorder = recorder
        for found in pictures:
            assert torch.allclose(found, expected, atol=1e-5)
        return expected

    first = compare()
    assert pipe.generator.recorder._found
    with torch.no_grad():
        next(pipe.unet.parameters()).mul_(1.5)
    second = compare()
    assert not torch.equal(first, second)
    add_lora(pipe.unet)
    with torch.no_grad():
        for parameter in lora_parameters(pipe.unet):
            parameter.normal_(std=0.1)
    third = compare()
    with adapters_disabled(pipe.unet):
        assert torch.allclose(compare(), second, atol=1e-5)
    assert not torch.allclose(third, second, atol=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_without_a_skipped_update(base, tmp_path, monkeypatch, precision):
    """fp16 starts with a large loss scale and may skip first updates until it fits."""
    on("cuda", monkeypatch)
    model = stage2.build(base, tmp_path, train__mixed_precision=precision, train__total_iter=12)
    before = stage2.trained(model)
    assert model.fit()
    assert (
        model.weight_update.skipped == 0 if precision == "bf16" else model.weight_update.skipped < 8
    )
    after = stage2.trained(model)
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_a_stopped_run_goes_on(base: Path, tmp_path: Path, monkeypatch):
    """Optimizer, scaler and random numbers come back onto the device."""
    on("cuda", monkeypatch)
    changes = {"train__mixed_precision": "fp16", "train__ema_decay": 0.5}
    whole = stage2.build(base, tmp_path / "whole", **changes)
    assert whole.fit()
    first = stage2.build(base, tmp_path / "parts", **changes)
    batches = first._batches()
    first._update(batches)
    first._update(batches)
    first.save_checkpoint()
    second = stage2.build(base, tmp_path / "parts", **changes)
    assert second.resume() and second.iteration == 2
    assert second.fit()
    for name, value in stage2.trained(whole).items():
        torch.testing.assert_close(second.trained[name], value, rtol=1e-3, atol=1e-5)


def test_the_pipeline_restores_as_on_the_cpu():
    """Whole and in tiles, to a grey level."""
    picture = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    results = {}
    for device in ("cpu", "cuda"):
        pipe = OneStepSRPipeline.from_pretrained("mini").to(device)
        pipe.set_progress_bar_config(disable=True)
        for tile in (0, 128):
            rng = torch.Generator().manual_seed(3)
            images = pipe(picture, generator=rng, tile=tile, output_type="pt").images
            results[device, tile] = images.cpu()
    for tile in (0, 128):
        error = (results["cuda", tile] - results["cpu", tile]).abs().max()
        assert float(error) < 1 / 255, tile


@pytest.mark.parametrize("metric", ["psnr_y", "ssim", "gmsd", "nlpd", "piqe", "niqe"])
def test_metrics_score_as_on_the_cpu(metric: str):
    rng = torch.Generator().manual_seed(0)
    hr = torch.nn.functional.interpolate(torch.rand(2, 3, 16, 16, generator=rng), scale_factor=12)
    images = (hr + 0.1 * torch.randn(hr.shape, generator=rng)).clamp(0, 1)
    expected = create_metric(metric, "cpu")(images, hr)
    found = create_metric(metric, "cuda")(images.to("cuda"), hr.to("cuda"))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_the_commands_run_on_the_device(base: Path, tmp_path: Path, monkeypatch):
    """Train two updates, restore a folder with the LoRA in half precision."""
    on("cuda", monkeypatch)
    changes = stage2.overrides(base, tmp_path, train__total_iter=2)
    assert train(["-opt", str(stage2.OPTIONS_FILE), "--force_yml", *changes]) == 0
    lora = tmp_path / "run" / "models" / "lora_latest"
    out = tmp_path / "out"
    command = ["-i", str(VAL), "-o", str(out), "--base", str(base), "--lora", str(lora)]
    assert inference.main([*command, "--precision", "bf16"]) == 0
    assert len(list(out.glob("*.png"))) == len(list(VAL.iterdir()))


@pytest.mark.parametrize("channels_last", [False, True])
def test_an_untrained_policy_is_the_reference_in_half_precision(
    base, tmp_path, monkeypatch, channels_last
):
    """The first is recorded with a graph, the second without: ln 2 is the loss of equal ones."""
    on("cuda", monkeypatch)
    changes = {"train__mixed_precision": "bf16", "train__channels_last": channels_last}
    model = stage2.build(base, tmp_path, **changes)
    batch = model.to_batch(next(model._batches()))
    for _ in range(3):
        [item] = model.prepare_update([batch])
        inputs = model.step.inputs(item)
        errors = inputs.errors(inputs.predict(model.generator))
        assert torch.equal(errors.policy, errors.reference)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_group_norm_in_half_precision_is_torchs(layout):
    rng = torch.Generator().manual_seed(0)
    x, given = (torch.randn(2, 64, 40, 24, generator=rng).bfloat16() for _ in range(2))
    layer = torch.nn.GroupNorm(32, 64)
    torch.nn.init.normal_(layer.weight)
    found = []
    for kind in (torch.float64, torch.bfloat16):
        own = deepcopy(layer).to("cuda", kind if kind == torch.float64 else torch.float32)
        if kind == torch.bfloat16:
            use_half_norm([own])
        moved = x.to("cuda", kind).to(memory_format=layout).requires_grad_()
        y = own(moved)
        [gradient] = torch.autograd.grad(y, moved, given.to("cuda", kind))
        found.append((y.double(), gradient.double()))
        assert y.dtype == kind
    assert type(own).__name__ == "HalfNorm"
    for exact, half in zip(*found, strict=True):
        assert relative(half, exact) < 4e-3
