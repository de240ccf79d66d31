"""A whole stage-2 step, and the merged stage-1 model that it starts from, against recordings of the
released code on a toy model of Stable Diffusion's shape. Stage 1 itself: test_golden_stage1.py.

The step is that of the trainer: the five functions of `gdpo_sr.group`, fed with the recorded noise
in place of draws. In a clone: tests/unit/group/test_recorded_step.py.

Every test records the largest error that it met (`pytest --junitxml` shows them).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gdpo_sr.checkpoints.convert import read_checkpoint
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.group.advantages import group_advantages
from gdpo_sr.group.errors import prediction_errors
from gdpo_sr.group.sample import Group, GroupNoise, restore_group, sample_group
from gdpo_sr.group.score import score_group
from gdpo_sr.losses import LOSSES, GroupErrors
from gdpo_sr.losses.gdpo_loss import preference_margin
from gdpo_sr.rewards.iqa_reward import IQAReward
from gdpo_sr.types import SRBatch
from tests.golden_rewards import StandIn, spread, total_variation
from tests.released_checkpoints import (
    checksum_error,
    checksums,
    load_as_one_adapter,
    merge_released,
)

Arrays = dict[str, torch.Tensor]
NETWORK = 1e-4
"""Largest absolute error through a network on the CPU."""
INSIDE = 1e-3
"""Of the logit, 2500 times a difference of two float32 means of size 1.5, on the recorded group.

Ours is in float64: in float32 one processor's rounding alone makes 3e-4 of it, another's 1.3e-3.
"""
INSIDE_CHAINED = 3e-3
"""Of the logit on the group that our own code sampled, whose pixels differ by 2e-5."""


@pytest.fixture(scope="module")
def load(golden) -> Callable[[str], Arrays]:
    def arrays(name: str) -> Arrays:
        return {key: torch.from_numpy(value) for key, value in np.load(golden(name)).items()}

    return arrays


@pytest.fixture(scope="module")
def notes(golden) -> dict:
    return json.loads(golden("gdpo_step.json").read_text())


@pytest.fixture(scope="module")
def base(golden) -> NoiseAwareGenerator:
    return build_generator(load_components(golden("tiny_base"), t_add=250, t_diff=100))


@pytest.fixture(scope="module")
def stage1(golden, base: NoiseAwareGenerator) -> NoiseAwareGenerator:
    """The base with the stage-1 adapters merged: where stage 2 starts."""
    generator = copy.deepcopy(base)
    merge_released(generator, golden("stage1.pkl"))
    return generator


@pytest.fixture(scope="module")
def rewards() -> dict:
    return {
        "psnr": IQAReward("psnr_y", "fidelity"),
        "musiq": StandIn("musiq", total_variation),
        "maniqa": StandIn("maniqa", spread),
    }


@pytest.fixture(scope="module")
def fresh_policy(golden, stage1: NoiseAwareGenerator) -> SimpleNamespace:
    generator = copy.deepcopy(stage1)
    lora = load_as_one_adapter(generator.unet, golden("stage2_step.pkl"))
    return SimpleNamespace(generator=generator, lora=lora)


@pytest.fixture
def policy(fresh_policy: SimpleNamespace) -> SimpleNamespace:
    """Generator with the LoRA of the recorded step, and its parameters by released name."""
    return copy.deepcopy(fresh_policy)


@pytest.fixture
def replay(monkeypatch) -> Callable[[Arrays], None]:
    """What is drawn from now on is what was recorded, in the order of the released code."""

    def start(recorded: Arrays, first: int = 0) -> None:
        names = ("sample_vae_eps", "sample_noise", "policy_vae_eps", "policy_noise")
        left = [recorded[name] for name in names[first:]]
        for module in ("sample", "errors"):
            monkeypatch.setattr(
                f"gdpo_sr.group.{module}.draw_noise", lambda shape, *_: left.pop(0).view(shape)
            )

    return start


def batch_of(recorded: Arrays, prompts: list[str]) -> SRBatch:
    """LR pictures are recorded at the size of HR; enlarging leaves them alone."""
    lr, hr = (recorded[name] / 2 + 0.5 for name in ("x_src", "x_tgt"))
    return SRBatch(lr, hr, prompts, [""] * len(hr))


def run_step(network: NoiseAwareGenerator, recorded: Arrays, prompts, rewards) -> SimpleNamespace:
    """The stage-2 step of the package; `replay` has been called."""
    batch, rng = batch_of(recorded, prompts), torch.Generator()
    group = sample_group(network, batch, recorded["sample_noise"].shape[1], rng)
    scores = score_group(rewards, group, batch.hr)
    advantages = group_advantages(scores, recorded["det"], rewards)
    errors = prediction_errors(network, group, rng)
    return SimpleNamespace(
        images=group.images * 2 - 1,
        scores=scores,
        advantages=advantages,
        errors=errors,
        inside=inside_term(errors, advantages),
        out=LOSSES.get("gdpo")()(errors, advantages),
    )


def inside_term(errors: GroupErrors, advantages: torch.Tensor) -> torch.Tensor:
    """The argument of the loss's log-sigmoid, (B,)."""
    return -2500 * preference_margin(errors.policy, errors.reference, advantages).detach()


def test_stage_1_merge(golden, stage1, base, record_property):
    """Every tensor after the merge, and the list of weights that must not change."""
    for part in ("unet", "vae"):
        recorded = json.loads(golden("stage1_merged.json").read_text())[part]
        merged = getattr(stage1, part).state_dict()
        before = getattr(base, part).state_dict()
        error = checksum_error(merged, recorded["checksums"])
        record_property(f"{part} checksums, relative", f"{error:.1e}")
        assert error < 1e-6
        changed = {name for name in merged if not torch.equal(merged[name], before[name])}
        assert len(changed) == recorded["n_changed_vs_base"]
        assert not changed & set(recorded["unchanged_weights"])


@pytest.mark.parametrize("t_diff, t_add", [(100, 250), (200, 200), (250, 250)])
def test_naosd_forward(golden, load, stage1, assert_close, t_diff: int, t_add: int):
    recorded = load("naosd_forward.npz")
    prompts = json.loads(golden("naosd_forward.json").read_text())["prompts"]
    generator = copy.deepcopy(stage1)
    generator.scheduler.set_timesteps_pair(t_add, t_diff)
    embeds = generator.prompt_encoder(prompts)
    assert_close("prompt embeddings", embeds, recorded["prompt_embeds"], 1e-5)
    with torch.no_grad():
        encoded = generator.encode(recorded["x_src"], recorded["vae_eps"])
        latents = generator.restore_latents(encoded, recorded["noise"], embeds)
        image = generator.decode(latents)
    tag = f"t{t_diff}_n{t_add}"
    assert_close(f"{tag} latents", latents, recorded[f"{tag}__latents"], NETWORK)
    assert_close(f"{tag} image", image, recorded[f"{tag}__image"], NETWORK)


def test_step_of_one_image(load, notes, policy, rewards, replay, assert_close):
    """Sampling, scores, advantages, errors, logit, loss, each on what our own code made before."""
    recorded = load("gdpo_step_b1g6.npz")
    case = notes["cases"][0]
    replay(recorded)
    step = run_step(policy.generator, recorded, notes["prompts"][:1], rewards)
    assert_close("sampled images", step.images, recorded["sample_images"], NETWORK)
    assert_close("psnr", step.scores["psnr"], recorded["psnr"], 1e-3)
    assert_close("musiq stand-in", step.scores["musiq"], recorded["musiq_standin"], 1e-3)
    assert_close("maniqa stand-in", step.scores["maniqa"], recorded["maniqa_standin"], 1e-5)
    assert_close("advantages", step.advantages, recorded["advantages"], 1e-3)
    for name in ("policy", "reference"):
        key = {"policy": "policy", "reference": "ref"}[name]
        expected = torch.tensor([case[f"mean_sq_{key}_minus_noise"]])
        assert_close(f"{name} errors", getattr(step.errors, name), expected, 1e-5)
    assert_close("inside_term", step.inside, recorded["inside_term"], INSIDE_CHAINED)
    assert_close("loss", step.out.loss, recorded["loss"], 1e-3)


def test_the_group_is_sampled_by_the_reference(policy, stage1, load, notes):
    """Candidates of a policy that moved far equal those of its starting point, bit for bit."""
    with torch.no_grad():
        for parameter in policy.lora.values():
            parameter.mul_(30)
    hr = load("gdpo_step_b2g4.npz")["x_tgt"] / 2 + 0.5
    batch = SRBatch(hr[..., ::4, ::4].contiguous(), hr, notes["prompts"], ["a", "b"])

    def group(generator: NoiseAwareGenerator) -> torch.Tensor:
        return sample_group(generator, batch, 2, torch.Generator().manual_seed(0)).images

    expected = group(stage1)
    assert torch.equal(group(policy.generator), expected)
    own = policy.generator(hr * 2 - 1, torch.zeros(2, 4, 8, 8), notes["prompts"])
    assert (own - stage1(hr * 2 - 1, torch.zeros(2, 4, 8, 8), notes["prompts"])).abs().max() > 0.01


def gradient_errors(lora: Arrays, recorded: Arrays) -> tuple[float, float]:
    """Largest relative L2 error of a gradient, and largest L2 error where the recorded one is 0."""
    relative, absolute = 0.0, 0.0
    for name, expected in recorded.items():
        error, norm = float((lora[name].grad - expected).norm()), float(expected.norm())
        if norm > 0:
            relative = max(relative, error / norm)
        else:
            absolute = max(absolute, error)
    return relative, absolute


def update_error(tensors: Arrays, recorded: dict[str, dict], lr: float) -> float:
    """Largest difference of a checksum, per entry and in units of the learning rate."""
    errors = []
    for name, expected in recorded.items():
        own, count = checksums(tensors[name]), tensors[name].numel()
        for kind, size in (("sum", count), ("l2", count**0.5), ("absmax", 1)):
            errors.append(abs(own[kind] - expected[kind]) / (size * lr))
    return max(errors)


def clip_and_step(lora: Arrays, after: dict) -> float:
    """Clip and take one AdamW step as recorded; the gradient's norm before clipping."""
    norm = torch.nn.utils.clip_grad_norm_(lora.values(), after["max_grad_norm"])
    torch.optim.AdamW(lora.values(), lr=after["lr"], weight_decay=after["weight_decay"]).step()
    return float(norm)


def test_gradients_and_update_of_one_step(load, notes, policy, rewards, replay, record_property):
    """514 gradients, then clipping and one AdamW step. The first step of Adam moves an entry by the
    learning rate times g / (|g| + 1e-8), so where g is almost 0 a part of it may differ.
    """
    recorded, case = load("gdpo_step_b1g6.npz"), notes["cases"][0]
    replay(recorded)
    run_step(policy.generator, recorded, notes["prompts"][:1], rewards).out.loss.backward()
    gradients = load("gdpo_step_b1g6_grads.npz")
    assert set(policy.lora) == set(gradients) and len(gradients) == 514
    relative, absolute = gradient_errors(policy.lora, gradients)
    record_property("gradients, relative L2", f"{relative:.1e}")
    record_property("gradients that are 0, L2", f"{absolute:.1e}")
    assert relative < 1e-3 and absolute < 1e-5
    trained = [n for n, p in policy.generator.named_parameters() if p.grad is not None]
    assert len(trained) == case["n_grads"] and all(".lora_" in name for name in trained)

    after = notes["after_one_adamw_step_b1g6"]
    assert clip_and_step(policy.lora, after) == pytest.approx(after["norm_before_clip"], rel=1e-3)
    error = update_error(policy.lora, after["checksums"], after["lr"])
    record_property("update, learning rates", f"{error:.1e}")
    assert error < 0.1


def test_update_of_the_recorded_gradients(load, notes, policy, record_property):
    """From the recorded gradients, clipping and AdamW give the recorded parameters."""
    for name, gradient in load("gdpo_step_b1g6_grads.npz").items():
        policy.lora[name].grad = gradient
    after = notes["after_one_adamw_step_b1g6"]
    assert clip_and_step(policy.lora, after) == pytest.approx(after["norm_before_clip"], rel=1e-6)
    error = update_error(policy.lora, after["checksums"], after["lr"])
    record_property("update of recorded gradients, learning rates", f"{error:.1e}")
    assert error < 1e-4


@pytest.mark.parametrize("order", ["own", "swapped"])
def test_prompts_stay_with_their_images(
    load, notes, policy, rewards, replay, assert_close, order: str
):
    """B = 2: the recording in which every sample got its own picture's prompt, not the other's."""
    recorded = {**load("gdpo_step_b2g4.npz"), **load("gdpo_step_b2g4_prompts_in_order.npz")}
    prompts = notes["prompts"] if order == "own" else notes["prompts"][::-1]
    replay(recorded)
    with torch.no_grad():
        step = run_step(policy.generator, recorded, prompts, rewards)
    if order == "swapped":
        assert (step.images - recorded["sample_images"]).abs().max() > 10 * NETWORK
        assert (step.inside - recorded["inside_term"]).abs().max() > 1e-2
        return
    assert_close("b2g4 sampled images", step.images, recorded["sample_images"], NETWORK)
    assert_close("b2g4 advantages", step.advantages, recorded["advantages"], 1e-3)
    assert_close("b2g4 inside_term", step.inside, recorded["inside_term"], INSIDE_CHAINED)
    exact = {name: value.double() for name, value in recorded.items()}
    replay(exact, first=2)
    images, latents = exact["sample_images"] / 2 + 0.5, exact["sample_latents"]
    group = Group(exact["x_src"], prompts, images, latents, latents, latents)
    errors = prediction_errors(policy.generator.double(), group, torch.Generator())
    inside = inside_term(errors, exact["advantages"]).float()
    assert_close("b2g4 inside_term, recorded group", inside, recorded["inside_term"], INSIDE)
    assert_close("b2g4 loss", step.out.loss, recorded["loss"], 1e-3)


def test_forward_of_the_merged_stage_2(golden, load, stage1, assert_close, record_property):
    """stage2.pkl merges onto the stage-1 UNet; its pictures at t_add 250, t_diff 100."""
    generator = copy.deepcopy(stage1)
    merge_released(generator, golden("stage2.pkl"))
    merged = json.loads(golden("stage2_merged.json").read_text())["unet"]
    error = checksum_error(generator.unet.state_dict(), merged["checksums"])
    record_property("stage-2 checksums, relative", f"{error:.1e}")
    assert error < 1e-6

    recorded = load("test_forward.npz")
    prompts = json.loads(golden("naosd_forward.json").read_text())["prompts"]
    noise = GroupNoise(recorded["vae_eps"], recorded["noise"][:, None])
    image = restore_group(generator, recorded["x"], prompts, noise).images[:, 0] * 2 - 1
    assert_close("stage-2 image", image, recorded["image"], NETWORK)


def test_the_step_starts_from_the_stage_1_model(golden, stage1):
    """The base layer stored with the recorded policy is the merged stage-1 `conv_in`."""
    stored = read_checkpoint(golden("stage2_step.pkl")).conv_in
    for kind in ("weight", "bias"):
        own = stage1.unet.get_parameter(f"conv_in.{kind}")
        assert torch.allclose(stored[kind], own, atol=1e-6)
