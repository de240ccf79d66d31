"""A whole step of the released code, by the trainer's own `GroupStep` with the paper's options,
where the networks answer what was recorded of them: needs nothing but `tests/golden`.

With networks that compute: tests/integration/test_golden_step.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gdpo_sr.config.load import load_options
from gdpo_sr.generators.diffusion_math import epsilon_for_x0, predict_x0
from gdpo_sr.generators.one_step import OneStepScheduler
from gdpo_sr.group.step import GroupStep, ScoredGroup
from gdpo_sr.rewards.iqa_reward import IQAReward
from gdpo_sr.stage2.build_rewards import build_loss
from gdpo_sr.types import SRBatch
from tests.golden_rewards import StandIn, spread, total_variation

Arrays = dict[str, torch.Tensor]
ABAR_ADD, ABAR_DIFF = 0.673792, 0.894223
"""At t_add = 250 and t_diff = 100."""


class Recorded(nn.Module):
    """A network that finds its input among the recorded ones and gives the recorded answer.

    It has the policy's answers and, while `reference` is set, those of the reference.
    """

    def __init__(self, r: Arrays) -> None:
        super().__init__()
        self.scheduler, self.unet = OneStepScheduler(t_add=250, t_diff=100), nn.Identity()
        self.reference = False
        pred = r["model_pred"]
        self.noisy = ABAR_DIFF**0.5 * r["policy_latents"] + (1 - ABAR_DIFF) ** 0.5 * pred
        noise = (1 - ABAR_ADD) ** 0.5 * r["policy_noise"]
        self.candidates = (self.noisy - noise) / ABAR_ADD**0.5
        self.r = r

    def latent_shape(self, images: torch.Tensor) -> tuple[int, int, int, int]:
        return len(images), 4, 8, 8

    def prompt_encoder(self, prompts: list[str]) -> torch.Tensor:
        """The prompt's number, so that a wrong order is seen."""
        return torch.tensor([float(p) for p in prompts])[:, None, None]

    def encode(self, images: torch.Tensor, posterior: torch.Tensor | None = None) -> torch.Tensor:
        """LR pictures: 0, with whatever state; candidates: their recorded latents."""
        if len(images) == 2:
            assert torch.allclose(images, self.r["x_src"], atol=1e-5)
            assert torch.equal(posterior, self.r["sample_vae_eps"])
            return torch.zeros(2, 4, 8, 8)
        assert torch.allclose(images, self.r["sample_images"].flatten(0, 1), atol=1e-4)
        assert torch.equal(posterior, self.r["policy_vae_eps"])
        return self.candidates

    def predict_epsilon(self, noisy: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        assert embeds.flatten().tolist() == [0.0] * 4 + [1.0] * 4, "prompts by picture"
        sampled = self.r["sample_latents"].flatten(0, 1)
        state = (1 - ABAR_ADD) ** 0.5 * self.r["sample_noise"].flatten(0, 1)
        if noisy.shape == state.shape and torch.allclose(noisy, state, atol=1e-5):
            return epsilon_for_x0(noisy, sampled, ABAR_DIFF)
        assert torch.allclose(noisy, self.noisy, atol=1e-4)
        return self.r["ref_model_pred" if self.reference else "model_pred"]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        assert torch.allclose(latents, self.r["sample_latents"].flatten(0, 1), atol=1e-4)
        return self.r["sample_images"].flatten(0, 1)


@pytest.fixture
def recorded(golden) -> Arrays:
    arrays = np.load(golden("gdpo_step_small.npz"))
    return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture
def step(recorded, monkeypatch) -> GroupStep:
    """With the options of `gdpo_sr_paper.yml` but for its metrics and the picture's size."""
    network = Recorded(recorded)
    names = ("sample_vae_eps", "sample_noise", "policy_vae_eps", "policy_noise")
    left = [recorded[name] for name in names]
    for module in ("sample", "errors"):
        monkeypatch.setattr(
            f"gdpo_sr.group.{module}.draw_noise", lambda shape, *_: left.pop(0).view(shape)
        )

    class Off:
        def __init__(self, unet: nn.Module) -> None:
            assert unet is network.unet

        def __enter__(self) -> None:
            network.reference = True

        def __exit__(self, *_: object) -> None:
            network.reference = False

    for module in ("sample", "errors"):
        monkeypatch.setattr(f"gdpo_sr.group.{module}.adapters_disabled", Off)
    train = load_options("options/gdpo_sr_paper.yml", ["train:group_size=4"]).train
    rewards = {
        "psnr": IQAReward("psnr_y", "fidelity"),
        "musiq": StandIn("musiq", total_variation),
        "maniqa": StandIn("maniqa", spread),
    }
    random = dict.fromkeys(("sampling", "update", "control"), torch.Generator())
    return GroupStep(network, rewards, build_loss(train.loss), train, random)


def scored(step: GroupStep, r: Arrays) -> ScoredGroup:
    """The step up to the advantages; the share of texture is the recorded one."""
    lr, hr = (r[name] / 2 + 0.5 for name in ("x_src", "x_tgt"))
    item = step.score(step.sample(SRBatch(lr, hr, ["0", "1"], ["", ""])), hr)
    item.texture = r["det"]
    step.set_advantages([item])
    return item


def test_scores_and_advantages(step, recorded, assert_close):
    item = scored(step, recorded)
    assert_close("psnr", item.scores["psnr"], recorded["psnr"], 1e-3)
    assert_close("musiq", item.scores["musiq"], recorded["musiq_standin"], 1e-3)
    assert_close("maniqa", item.scores["maniqa"], recorded["maniqa_standin"], 1e-5)
    assert_close("advantages", item.advantages, recorded["advantages"], 1e-4)


def test_loss(step, recorded, assert_close):
    """The logit is 2500 times a difference of two float32 means of size 1.5."""
    output = step(scored(step, recorded))
    assert_close("loss", output.loss, recorded["loss"], 1e-3)
    inside = recorded["inside_term"]
    assert float(output.logs["logit"]) == pytest.approx(float(inside.mean()), abs=2e-3)


def test_the_stand_in_finds_its_inputs(recorded):
    """x0 of the recorded predictions is what the recording says, for both networks."""
    network = Recorded(recorded)
    ours = predict_x0(network.noisy, recorded["model_pred"], ABAR_DIFF)
    torch.testing.assert_close(ours, recorded["policy_latents"], rtol=1e-4, atol=1e-4)
