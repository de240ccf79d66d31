"""`gdpo-sr convert` from checkpoint files to models, against recordings of the released code's own
merge and inference on a toy model of Stable Diffusion's shape.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gdpo_sr.convert import main
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.group.sample import GroupNoise, restore_group
from tests.released_checkpoints import checksum_error

MERGE = 1e-6
"""Largest relative error of a checksum, and absolute error of a weight, after merging."""
NETWORK = 1e-4
"""Largest absolute error through a network on the CPU."""


@pytest.fixture(scope="module")
def models(golden, tmp_path_factory) -> dict[int, Path]:
    """Complete models: stage 1 merged into the base, stage 2 into that."""
    root = tmp_path_factory.mktemp("models")
    folders, base = {}, golden("tiny_base")
    for stage in (1, 2):
        folders[stage] = root / f"stage{stage}"
        arguments = [str(golden(f"stage{stage}.pkl")), "-o", str(folders[stage])]
        assert main([*arguments, "--base", str(base), "--merged"]) == 0
        base = folders[stage]
    return folders


@pytest.mark.parametrize("stage, part", [(1, "unet"), (1, "vae"), (2, "unet")])
def test_merged_weights(golden, models, assert_close, record_property, stage: int, part: str):
    """Checksums of every tensor, and the tensors that are recorded in full."""
    found = load_file(models[stage] / part / "diffusion_pytorch_model.safetensors")
    recorded = json.loads(golden(f"stage{stage}_merged.json").read_text())[part]
    assert len(found) == recorded["n_tensors"]
    error = checksum_error(found, recorded["checksums"])
    record_property("checksums, relative", f"{error:.1e}")
    assert error < MERGE
    full = np.load(golden(f"stage{stage}_merged_some.npz"))
    names = [name for name in full.files if name.startswith(f"{part}.")]
    assert names
    for name in names:
        assert_close(name, found[name.removeprefix(f"{part}.")], torch.tensor(full[name]), MERGE)


def test_stage_2_leaves_the_vae_alone(models):
    first, second = (
        load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
        for folder in models.values()
    )
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_released_inference(golden, models, assert_close):
    """Pictures of the released test program: UNet of stage 2, VAE of stage 1, t 250 and 100.

    The two are taken as the authors release them: folders `unet` and `vae`, other parts of a base.
    """
    recorded = {k: torch.from_numpy(v) for k, v in np.load(golden("test_forward.npz")).items()}
    prompts = json.loads(golden("naosd_forward.json").read_text())["prompts"]
    for arguments in (
        {"base": models[2]},
        {"base": golden("tiny_base"), "unet": models[2] / "unet", "vae": models[1] / "vae"},
    ):
        generator = build_generator(load_components(**arguments))
        t = generator.scheduler.config
        assert (t.t_add, t.t_diff) == (250, 100)
        noise = GroupNoise(recorded["vae_eps"], recorded["noise"][:, None])
        images = restore_group(generator, recorded["x"], prompts, noise).images * 2 - 1
        assert_close("image", images[:, 0], recorded["image"], NETWORK)
