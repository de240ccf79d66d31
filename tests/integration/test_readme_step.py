"""The README's stage-2 step runs as it is printed, with the trainer's functions."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

from gdpo_sr.checkpoints.lora import add_lora
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.group.advantages import group_advantages
from gdpo_sr.group.errors import prediction_errors
from gdpo_sr.group.sample import sample_group
from gdpo_sr.group.score import score_group
from gdpo_sr.losses import LOSSES
from gdpo_sr.rewards.iqa_reward import IQAReward
from gdpo_sr.rewards.texture_share import texture_share
from gdpo_sr.types import SRBatch

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_step_of_the_readme(base: Path, tmp_path: Path):
    """Policy = reference: the loss is ln 2 and its gradient is not 0."""
    [block] = re.findall(r"```python\n(group = .*?)```", README.read_text("utf-8"), flags=re.DOTALL)
    (tmp_path / "step.py").write_text(block)
    network = build_generator(load_components(base))
    trained = add_lora(network.unet)
    hr = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    functions = (sample_group, score_group, group_advantages, prediction_errors, texture_share)
    names = {
        **{function.__name__: function for function in functions},
        "network": network,
        "batch": SRBatch(hr[..., ::4, ::4].contiguous(), hr, ["a", "b"], ["x", "y"]),
        "group_size": 3,
        "rng": torch.Generator().manual_seed(0),
        "rewards": {
            "psnr_y": IQAReward("psnr_y", "fidelity"),
            "entropy": IQAReward("entropy", "perception"),
        },
        "loss": LOSSES.get("gdpo")(),
    }
    after = runpy.run_path(str(tmp_path / "step.py"), init_globals=names)
    after["output"].loss.backward()
    assert float(after["output"].loss.detach()) == pytest.approx(0.6931472, abs=1e-4)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trained)
    assert after["advantages"].shape == (2, 3)
    assert after["advantages"].sum(-1).abs().max() < 1e-5
