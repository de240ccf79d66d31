"""Losses, estimators and openings in the trainer: one update each, and exact resumption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdpo_sr.group.errors import draw_update_noise
from gdpo_sr.group.hacks import HACKS
from gdpo_sr.losses import LOSSES
from gdpo_sr.rewards.user_reward import UserReward
from gdpo_sr.stage2.gdpo_model import GDPOModel
from gdpo_sr.types import SRBatch
from gdpo_sr.utils.color_fix import apply_color_fix
from tests.integration.test_training import build, trained


def batches(model: GDPOModel, count: int) -> list[SRBatch]:
    source = model._batches()
    return [model.to_batch(next(source)) for _ in range(count)]


def one_update(model: GDPOModel) -> dict[str, float]:
    return model._update(model._batches())


OPENINGS = {
    "cells": {"train__cell_size": 16},
    "cells of 8 px": {"train__cell_size": 8, "train__reward__fixed_perception_weight": 0.3},
    "one cell": {"train__cell_size": 64},
    "cells, candidate": {"train__cell_size": 32, "train__update_input": "candidate"},
    "colours": {"train__reward__color_fix": "wavelet", "train__cell_size": 32},
    "policy samples": {"train__sampler": "policy", "train__lora__dropout": 0.1},
    "t_add": {"train__diversity": "{source: t_add, t_add_range: [100, 300]}"},
    "automatic omega": {"train__loss": "{type: gdpo, omega: auto}"},
    "decoupled": {"train__advantage": "{type: decoupled, clip: 2.0}"},
}


@pytest.mark.parametrize("changes", OPENINGS.values(), ids=OPENINGS)
def test_openings_take_a_step(base: Path, tmp_path: Path, changes: dict[str, object]):
    model = build(base, tmp_path, **changes)
    before = trained(model)
    logs = one_update(model)
    assert logs["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert 0 <= logs["tied_entropy"] <= 1 and logs["gradient_norm"] > 0
    assert any(not torch.equal(v, model.trained[name]) for name, v in before.items())


BY_CELL = [name for name in LOSSES.names() if LOSSES.get(name).by_element]


@pytest.mark.parametrize(
    "name, cell_size", [*((n, "null") for n in LOSSES.names()), *((n, 32) for n in BY_CELL)]
)
def test_every_loss_takes_a_step(base: Path, tmp_path: Path, name: str, cell_size: int | str):
    changes: dict[str, object] = {"train__loss": f"{{type: {name}}}", "train__cell_size": cell_size}
    if LOSSES.get(name).through_rewards:
        changes |= {"train__reward__perception": "{tex: {metric: texture_energy}}"}
    model = build(base, tmp_path, **changes)
    logs = one_update(model)
    assert logs["gradient_norm"] > 0 and logs["skipped_updates"] == 0


def test_pairs_are_compared_on_the_same_noise(base: Path, tmp_path: Path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "gdpo_sr.group.errors.draw_update_noise",
        lambda *args: seen.append(args[2]) or draw_update_noise(*args),
    )
    for loss in ("gdpo", "diffusion_dpo", "multi_pair_dpo"):
        changes = {"train__loss": f"{{type: {loss}}}", "train__update_input": "candidate"}
        model = build(base, tmp_path, **changes)
        [item] = model.prepare_update(batches(model, 1))
        model.compute_loss(item)
    assert seen == [False, True, True]


def test_grpo_scores_what_it_did(base: Path, tmp_path: Path):
    """Candidates are the decoded actions; before any update the ratio is 1."""
    model = build(base, tmp_path, train__loss="{type: grpo, sigma: 0.5}", train__sampler="policy")
    [item] = model.prepare_update(batches(model, 1))
    group = item.group
    with torch.no_grad():
        images = model.generator.decode(group.latents.flatten(0, 1)) / 2 + 0.5
    torch.testing.assert_close(group.images.flatten(0, 1), images)
    mean = model.generator.scheduler.predict_x0(group.states, group.epsilon)
    assert float((group.latents - mean).std()) == pytest.approx(0.5, rel=0.1)
    logs = model.compute_loss(item).logs
    assert float(logs["ratio"]) == pytest.approx(1, abs=1e-5)


def test_decoupled_statistics_span_the_accumulation_steps(base: Path, tmp_path: Path):
    changes = {"train__advantage": "{type: decoupled}", "train__accumulation": 3}
    model = build(base, tmp_path, **changes)
    rollouts = model.prepare_update(batches(model, 3))
    everything = torch.cat([r.advantages for r in rollouts])
    assert float(everything.std()) == pytest.approx(1, abs=1e-3)
    spreads = [float(r.advantages.std()) for r in rollouts]
    assert max(abs(s - 1) for s in spreads) > 1e-3, "each group alone would have spread 1"


@pytest.mark.parametrize("fix", ["wavelet", "adain"])
def test_rewards_see_what_inference_gives_out(base: Path, tmp_path: Path, fix: str):
    """Scores are those of candidates with their LR picture's colours; the candidates stay."""
    plain, fixed = (
        build(base, tmp_path / name, train__reward__color_fix=name) for name in ("none", fix)
    )
    batch = batches(plain, 1)[0]
    [own], [other] = (m.prepare_update([batch]) for m in (plain, fixed))
    assert torch.equal(own.group.images, other.group.images)
    images = own.group.images.flatten(0, 1)
    colours = (own.group.enlarged / 2 + 0.5).expand_as(images)
    given_out = apply_color_fix(fix, images, colours).clamp(0, 1)
    expected = fixed.rewards["psnr_y"](given_out[None], batch.hr)
    torch.testing.assert_close(other.scores["psnr_y"], expected)
    assert not torch.allclose(own.scores["psnr_y"], expected, atol=1e-3)


def test_a_resumed_run_with_all_state_equals_an_uninterrupted_one(base: Path, tmp_path: Path):
    changes = {
        "train__loss": "{type: gdpo, omega: auto}",
        "train__sampler": "policy",
        "train__cell_size": 32,
        "train__lora__dropout": 0.1,
        "train__total_iter": 3,
    }
    whole = build(base, tmp_path / "whole", **changes)
    source = whole._batches()
    for _ in range(3):
        whole._update(source)

    first = build(base, tmp_path / "parts", **changes)
    source = first._batches()
    for _ in range(2):
        first._update(source)
    first.save_checkpoint()
    torch.rand(7)
    second = build(base, tmp_path / "parts", **changes)
    assert second.resume() and second.iteration == 2
    second._update(second._batches())
    for name, value in trained(whole).items():
        assert torch.equal(value, second.trained[name]), name
    assert second.loss.state_dict() == whole.loss.state_dict()


def test_an_alarm_ends_the_run_and_keeps_the_best(base: Path, tmp_path: Path):
    """Limits that every change exceeds: the second validation raises the alarm."""
    alarms = "{metric_limit: 1e-9, probe_limit: 1e-9, share: 0.01, stop: true}"
    model = build(base, tmp_path, train__alarms=alarms, val__val_freq=1)
    reports = iter([(False, True), (False, True), (True, False)])
    check = model.alarms.check

    def scripted(comparison, pictures):
        raised, best = next(reports)
        report = check(comparison, pictures)
        return type(report)(raised, best, report.measures)

    model.alarms.check = scripted
    assert model.fit()
    assert model.iteration == 2 and model.stop_early
    assert (model.paths.models / "lora_best").is_dir()
    again = build(base, tmp_path, train__alarms=alarms, val__val_freq=1)
    assert again.resume() and again.stop_early and again.fit() and again.iteration == 2


def test_a_reward_of_ones_own_trains(base: Path, tmp_path: Path):
    example = Path(__file__).resolve().parents[2] / "examples" / "my_rewards.py"
    model = build(
        base,
        tmp_path,
        train__reward__user_modules=f"[{example}]",
        train__reward__perception="{contrast: {reward: local_contrast, options: {radius: 2}}}",
    )
    logs = one_update(model)
    assert {"metric_contrast", "spread_contrast", "tied_contrast"} <= logs.keys()


def test_automatic_omega_from_the_lr_picture_starts_in_order(base: Path, tmp_path: Path):
    """Errors there average to 0 over a group; omega was 2e12 and the gradient's norm as large."""
    model = build(base, tmp_path, train__loss="{type: gdpo, omega: auto}")
    [item] = model.prepare_update(batches(model, 1))
    logs = model.compute_loss(item).logs
    inputs = model.step.inputs(item)
    size = inputs.errors(inputs.reference_epsilon).reference.abs().mean()
    assert float(logs["omega"]) == pytest.approx(5000 / float(size), rel=1e-4)
    assert float(logs["omega"]) < 1e7


@pytest.mark.parametrize("cell_size", ["null", 32])
@pytest.mark.parametrize("name", ["sft_best", "reward_weighted"])
def test_imitation_from_the_lr_picture_is_bounded_below(
    base: Path, tmp_path: Path, name: str, cell_size: int | str
):
    """A sum of squares: 0 at the least, and larger the further the policy is from everything.

    Errors of an input against its own candidate less those against the others would cancel the
    squares, and be linear: -318 at a distance of 1e3.
    """
    model = build(base, tmp_path, train__loss=f"{{type: {name}}}", train__cell_size=cell_size)
    [item] = model.prepare_update(batches(model, 1))
    inputs = model.step.inputs(item)
    start = inputs.predict(model.generator).detach()
    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    near, far, further = (
        float(model.step.output(item, inputs, start + distance * sign * direction).loss)
        for distance, sign in ((0.0, 1), (1e3, 1), (1e3, -1))
    )
    assert near >= 0 and min(far, further) > 1e5


def test_rewards_see_float32_outside_autocast(base: Path, tmp_path: Path, monkeypatch):
    """Of a trainer in bf16, a reward of one's own and the colour fix are computed as in float32."""
    seen = []

    def conv(candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        scores = torch.nn.functional.conv2d(candidates.flatten(0, 1), torch.ones(1, 3, 5, 5))
        seen.append((candidates.dtype, hr.dtype, scores.dtype, torch.is_autocast_enabled("cpu")))
        return scores.mean((1, 2, 3)).unflatten(0, candidates.shape[:2])

    model = build(base, tmp_path, train__reward__color_fix="wavelet")
    model.rewards["entropy"] = UserReward(conv, "entropy", "perception")
    half = torch.autocast("cpu", torch.bfloat16)
    monkeypatch.setattr(model.accelerator, "autocast", lambda: half)
    model._update(model._batches())
    asked = (
        1 + 1 + len(HACKS)
    )  # the update's candidates; before the first one, them and each change
    assert seen == asked * [(torch.float32, torch.float32, torch.float32, False)]
