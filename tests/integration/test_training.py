"""The stage-2 trainer: what moves, what stays, and that a stopped run goes on unchanged."""

from __future__ import annotations

import json
import os
import signal
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file

import gdpo_sr.train
from gdpo_sr.config.load import dump_options, load_options
from gdpo_sr.config.paths import ExperimentPaths
from gdpo_sr.config.schema import Options
from gdpo_sr.stage2.gdpo_model import GDPOModel
from gdpo_sr.train import control_of, main
from gdpo_sr.trainer.state import load_state, saved_states
from gdpo_sr.types import CheckpointError, LossOutput, SRBatch

ROOT = Path(__file__).resolve().parents[2]
OPTIONS_FILE = ROOT / "options" / "gdpo_sr.yml"


def overrides(base: Path, root: Path, **changes: object) -> list[str]:
    """A run of seconds on the example photos: 64-pixel crops, three candidates, cheap metrics."""
    values = {
        "name": "run",
        "num_threads": 1,
        "network_g:base": base,
        "path:experiments_root": root,
        "datasets:train:gt_size": 64,
        "datasets:train:batch_size": 1,
        "datasets:train:num_workers": 0,
        "datasets:val:gt_size": 64,
        "datasets:val:max_images": 2,
        "train:total_iter": 4,
        "train:group_size": 3,
        "train:cell_size": "null",
        "train:loss": "{type: gdpo, omega: 20}",
        "train:reward:fixed_perception_weight": "null",
        "train:reward:perception": "{entropy: {metric: entropy}}",
        "val:metrics": "{gmsd: {metric: gmsd}}",
        "val:val_freq": 0,
        "logger:print_freq": 1,
        "logger:save_checkpoint_freq": 2,
        "logger:show_progress": "false",
        **{key.replace("__", ":"): value for key, value in changes.items()},
    }
    return [f"{key}={value}" for key, value in values.items()]


def build(base: Path, root: Path, **changes: object) -> GDPOModel:
    options: Options = load_options(OPTIONS_FILE, overrides(base, root, **changes))
    paths = ExperimentPaths(options.path.experiments_root, options.name)
    paths.prepare(dump_options(options), resume=True)
    return GDPOModel(options, paths, Accelerator())


def trained(model: GDPOModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.trained.items()}


def first_loss(model: GDPOModel) -> LossOutput:
    """Loss of the first batch."""
    [rollout] = model.prepare_update([model.to_batch(next(model._batches()))])
    return model.compute_loss(rollout)


@pytest.mark.parametrize(
    "changes",
    [
        {"train__update_input": "lr"},
        {"train__update_input": "candidate", "train__group_chunk": 2},
        {"train__update_input": "candidate", "train__target": "noise"},
    ],
)
def test_only_the_lora_moves(base: Path, tmp_path: Path, changes: dict[str, object]):
    model = build(base, tmp_path, train__total_iter=2, **changes)
    before = {name: p.detach().clone() for name, p in model.generator.named_parameters()}
    assert model.fit()
    moved = {n for n, p in model.generator.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(".lora_" in name for name in moved)
    assert all(f"unet.{name}" in moved for name in model.trained if ".lora_B" in name)


def test_first_loss_is_ln_2_and_nothing_is_skipped(base: Path, tmp_path: Path):
    model = build(base, tmp_path)
    output = first_loss(model)
    torch.testing.assert_close(output.loss, torch.tensor(2.0).log())
    assert int(output.logs["skipped_groups"]) == 0
    assert {"metric_psnr_y", "spread_psnr_y"} <= output.logs.keys()


def test_resumed_run_equals_uninterrupted_run(base: Path, tmp_path: Path):
    whole = build(base, tmp_path / "whole", train__ema_decay=0.5, train__lora__dropout=0.1)
    assert whole.fit()

    arguments = {"train__ema_decay": 0.5, "train__lora__dropout": 0.1}
    first = build(base, tmp_path / "parts", **arguments)
    update = first._update

    def stop_after_two(batches):
        logs = update(batches)
        if first.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return logs

    first._update = stop_after_two
    assert not first.fit()
    torch.rand(7)  # another process would not have this one's random state either
    second = build(base, tmp_path / "parts", **arguments)
    assert second.resume() and second.iteration == 2
    assert second.fit()

    assert trained(whole).keys() == trained(second).keys()
    for name, value in trained(whole).items():
        assert torch.equal(value, second.trained[name]), name
    for a, b in zip(
        whole.weight_update.average.average, second.weight_update.average.average, strict=True
    ):
        assert torch.equal(a, b)
    assert whole.last_comparison == second.last_comparison


def test_accumulation_equals_a_larger_batch(base: Path, tmp_path: Path):
    """Two pictures in one batch, or one after the other: the same update."""
    weights = []
    for size in (2, 1):
        changes = {"datasets__train__batch_size": size, "train__accumulation": 2 // size}
        model = build(base, tmp_path / str(size), **changes)
        model.degrade = lambda hr, rng: F.avg_pool2d(hr, 4)
        model.prepare_update = lambda batches: batches
        compute_loss = model.compute_loss
        model.compute_loss = lambda batch, m=model, f=compute_loss: _fixed_noise_loss(m, f, batch)
        model._update(model._batches())
        weights.append([p.detach().clone() for p in model.trained.values()])
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def _fixed_noise_loss(model: GDPOModel, compute_loss, batch: SRBatch) -> LossOutput:
    """The mean loss of the pictures of a batch, with noise that depends on the picture alone."""
    losses = []
    for index, name in enumerate(batch.names):
        for source in ("sampling", "update"):
            model.random[source].manual_seed(sum(map(ord, name)))
        one = slice(index, index + 1)
        part = SRBatch(batch.lr[one], batch.hr[one], batch.prompts[one], [name])
        [rollout] = GDPOModel.prepare_update(model, [part])
        losses.append(compute_loss(rollout).loss)
    return LossOutput(torch.stack(losses).mean())


def test_control_permutes_and_is_another_run(base: Path, tmp_path: Path):
    options = control_of(load_options(OPTIONS_FILE, overrides(base, tmp_path)))
    assert options.name == "run_control"
    assert options.train.control == "permuted_advantages"


@pytest.fixture
def alive_at_start(monkeypatch) -> list[list[bool]]:
    """For each run that begins: of every earlier one, whether its networks are in memory."""
    earlier, found = [], []
    train = gdpo_sr.train.train

    def spied(*arguments):
        found.append([network() is not None for network in earlier])
        model = train(*arguments)
        earlier.append(weakref.ref(model.generator.unet))
        return model

    monkeypatch.setattr(gdpo_sr.train, "train", spied)
    return found


def test_main_writes_what_it_promises(base: Path, tmp_path: Path, capsys, alive_at_start):
    arguments = ["-opt", str(OPTIONS_FILE), "--control", "--force_yml"]
    assert main([*arguments, *overrides(base, tmp_path, train__total_iter=2)]) == 0
    assert alive_at_start == [[], [False]], "the control run has the memory to itself"
    printed = capsys.readouterr().out
    run = tmp_path / "run"
    picture = run / "visualization" / "side_by_side_0000002.png"
    assert str(picture) in printed and picture.is_file()
    assert "held out" in printed and "control change" in printed
    assert (tmp_path / "run_control" / "options.yml").is_file()
    weights = load_file(run / "models" / "lora_latest" / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.") for key in weights)
    assert (
        json.loads((run / "models" / "lora_latest" / "adapter_config.json").read_text())["r"] == 4
    )
    assert list((run / "log" / "tensorboard").iterdir()) and (run / "log" / "train.log").is_file()
    figures = json.loads((run / "validation_0000002.json").read_text())
    assert [row["name"] for row in figures["metrics"]] == ["psnr_y", "entropy", "gmsd"]

    assert (
        main([*arguments[:2], "--force_yml", *overrides(base, tmp_path, train__total_iter=1)]) == 0
    )
    archived = [f for f in tmp_path.iterdir() if f.name.startswith("run_archived_")]
    assert len(archived) == 1 and (archived[0] / "models" / "lora_latest").is_dir()


def test_dry_run_prints_options_and_writes_nothing(base: Path, tmp_path: Path, capsys):
    root = tmp_path / "nothing"
    assert (
        main(["-opt", str(OPTIONS_FILE), "--dry_run", "--force_yml", *overrides(base, root)]) == 0
    )
    assert "group_size: 3" in capsys.readouterr().out
    assert not root.exists()


def test_state_of_another_architecture_is_refused(base: Path, tmp_path: Path):
    model = build(base, tmp_path)
    model.save_checkpoint()
    other = build(base, tmp_path, train__lora__rank=2)
    before = trained(other)
    with pytest.raises(CheckpointError, match="lora.rank"):
        other.resume()
    assert all(torch.equal(value, other.trained[name]) for name, value in before.items())


def test_damaged_state_is_named(base: Path, tmp_path: Path):
    model = build(base, tmp_path)
    model.save_checkpoint()
    folder = saved_states(model.paths.training_states)[-1]
    (folder / "state.pt").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match="state.pt"):
        load_state(folder)


def test_a_reward_that_always_fails_does_not_end_the_run(base: Path, tmp_path: Path):
    model = build(base, tmp_path, train__total_iter=1)

    def broken(candidates, hr):
        raise RuntimeError("no score")

    broken.kind, broken.weight, broken.metric = "perception", 1.0, model.rewards["entropy"].metric
    model.rewards["entropy"] = broken
    output = first_loss(model)
    assert torch.isfinite(output.loss)
    assert int(output.logs["failed_entropy"]) == 3
