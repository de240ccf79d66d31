"""The stage-1 trainer against recordings of the released code on a toy model of Stable Diffusion's
shape: its forward pass, its loss, and the two losses of VSD, with all their gradients.

One UNet holds the recorded generator and the recorded fake score at once, as in training. Every
test records the largest error that it met (`pytest --junitxml` shows them).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from peft import set_peft_model_state_dict

from gdpo_sr.checkpoints.convert import read_checkpoint
from gdpo_sr.checkpoints.released_layout import own_name
from gdpo_sr.config.load import load_options
from gdpo_sr.config.paths import ExperimentPaths
from gdpo_sr.convert import main
from gdpo_sr.stage1.naosd_model import NAOSDModel
from gdpo_sr.types import SRBatch

ROOT = Path(__file__).resolve().parents[2]
Arrays = dict[str, torch.Tensor]
NETWORK = 1e-4
"""Largest absolute error through a network on the CPU."""


@pytest.fixture(scope="module")
def load(golden):
    def arrays(name: str) -> Arrays:
        return {key: torch.from_numpy(value) for key, value in np.load(golden(name)).items()}

    return arrays


@pytest.fixture(scope="module")
def trainer(golden, tmp_path_factory) -> NAOSDModel:
    """Generator of `stage1.pkl` as `gdpo-sr convert` writes it, fake score of `vsd_lora.pkl`, on
    the toy base.
    """
    adapters = tmp_path_factory.mktemp("converted") / "stage1"
    assert main([str(golden("stage1.pkl")), "-o", str(adapters)]) == 0
    values = {
        "network_g:base": golden("tiny_base"),
        "network_score:base": "null",
        "path:pretrain_lora": adapters,
        "path:experiments_root": tmp_path_factory.mktemp("runs"),
        "datasets:train:gt_size": 64,
        "datasets:val:gt_size": 64,
        "datasets:val:max_images": 1,
        "train:losses:perceptual": "{}",
        "val:metrics": "{}",
    }
    overrides = [f"{key}={value}" for key, value in values.items()]
    options = load_options(ROOT / "options" / "naosd.yml", overrides)
    paths = ExperimentPaths(options.path.experiments_root, options.name)
    trainer = NAOSDModel(options, paths, Accelerator())
    lora = read_checkpoint(golden("vsd_lora.pkl")).unet
    result = set_peft_model_state_dict(trainer.score.unet, lora, adapter_name="fake")
    assert not result.unexpected_keys and len(lora) == len(trainer.beside["fake"].parameters)
    return trainer


def our_name(released: str, unet: str = "unet", adapter: str = "default") -> str:
    """`conv_in.lora_A.default_encoder.weight` -> `unet.conv_in.lora_A.default.weight`."""
    name = own_name(released)
    if ".lora_" in name:
        name = f"{name.removesuffix('.weight')}.{adapter}.weight"
    return name if name.startswith("vae.") else f"{unet}.{name}"


def gradient_error(parameters: dict, recorded: dict[str, float], *names: str) -> float:
    """Largest relative error of a gradient's norm; where it is almost 0, relative to 1e-6."""
    expected = {our_name(name, *names): norm for name, norm in recorded.items()}
    assert set(expected) == set(parameters)
    return max(
        abs(float(parameters[name].grad.norm()) - norm) / max(norm, 1e-6)
        for name, norm in expected.items()
    )


@pytest.fixture(autouse=True)
def no_gradients(trainer: NAOSDModel) -> Iterator[None]:
    yield
    for parameter in trainer.generator.parameters():
        parameter.grad = None


@pytest.mark.parametrize("case", [0, 1, 2])
def test_generator(golden, load, trainer, assert_close, record_property, case: int):
    """Latents, picture, loss and the gradients of all 578 trained tensors."""
    recorded = load("naosd_forward.npz")
    notes = json.loads(golden("naosd_forward.json").read_text())
    expected = notes["cases"][case]
    t_diff, t_add = expected["time_step"], expected["time_step_noise"]
    trainer.generator.scheduler.set_timesteps_pair(t_add, t_diff)
    pictures = (recorded[name] / 2 + 0.5 for name in ("x_src", "x_tgt"))
    batch = SRBatch(*pictures, notes["prompts"], ["a", "b"])

    restored = trainer.restore_for_noise(batch, recorded["vae_eps"], recorded["noise"])
    image = trainer.generator.decode(restored.latents)
    tag = f"t{t_diff}_n{t_add}"
    assert_close("latents", restored.latents, recorded[f"{tag}__latents"], NETWORK)
    assert_close("image", image, recorded[f"{tag}__image"], NETWORK)

    [(weight, output)] = trainer._picture_losses(batch, restored).values()
    assert weight == 1
    assert_close("loss", output.loss, torch.tensor(expected["l2_loss"]), 1e-5)
    output.loss.backward()
    error = gradient_error(trainer.trained, expected["grad_norms"])
    record_property("gradient norms, relative", f"{error:.1e}")
    assert len(trainer.trained) == expected["n_params_with_grad"] and error < 1e-3


@pytest.mark.parametrize("case", [0, 1, 2])
def test_distillation(golden, load, trainer, assert_close, record_property, case: int):
    """VSD loss and gradient with guidance 7.5, and the fake score's loss and 514 gradients."""
    arrays = load("vsd.npz")
    recorded = {k.removeprefix(f"case{case}__"): v for k, v in arrays.items()}
    positive, negative = arrays["prompt_embeds"], arrays["neg_embeds"]
    latents = recorded["latents"].clone().requires_grad_()
    output = trainer.score.distill_for_noise(
        latents, recorded["dm_timestep"], recorded["dm_noise"], positive, negative
    )
    output.loss.backward()
    assert_close("vsd loss", output.loss, recorded["dm_loss"], 1e-5)
    assert_close("vsd gradient", latents.grad, recorded["dm_grad"], 1e-6)
    assert all(p.grad is None for p in trainer.generator.parameters())

    with trainer.score.fake():
        loss = trainer.score.fake_loss_for_noise(
            latents, recorded["lora_timestep"], recorded["lora_noise"], positive
        )
        loss.backward()
    assert_close("fake-score loss", loss, recorded["lora_loss"], 1e-5)
    expected = json.loads(golden("vsd.json").read_text())["cases"][case]["lora_grad_norms"]
    error = gradient_error(trainer.beside["fake"].parameters, expected, "score", "fake")
    record_property("fake gradient norms, relative", f"{error:.1e}")
    assert len(expected) == 514 and error < 1e-3
    assert all(p.grad is None for p in trainer.trained.values())
