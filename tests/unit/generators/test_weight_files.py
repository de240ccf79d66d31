"""Weights as users have them: of a variant, pickled, or a whole model in one file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.sd_layout import build_sd_layout
from gdpo_sr.generators.base_folder import base_folder
from gdpo_sr.generators.load import load_components
from gdpo_sr.generators.weight_files import has_weights, reading
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.types import CheckpointError
from tests.single_file_layout import write_single_file

NETWORKS = ("unet", "vae", "text_encoder")


def weight_file(base: Path, part: str) -> Path:
    [file] = (base / part).glob("*.safetensors")
    return file


def variant_base(base: Path, target: Path, variant: str = "fp16") -> Path:
    """Only `*.fp16.safetensors`, in half precision."""
    shutil.copytree(base, target)
    for part in NETWORKS:
        file = weight_file(target, part)
        halves = {k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}
        save_file(halves, file.with_suffix(f".{variant}.safetensors"), {"format": "pt"})
        file.unlink()
    return target


def pickled_base(base: Path, target: Path) -> Path:
    """Only `*.bin`."""
    shutil.copytree(base, target)
    for part in NETWORKS:
        file = weight_file(target, part)
        stem = "pytorch_model" if part == "text_encoder" else "diffusion_pytorch_model"
        torch.save(load_file(file), file.with_name(f"{stem}.bin"))
        file.unlink()
    return target


def difference(first: Path, second: Path) -> float:
    """Largest between the weights of two bases."""
    a, b = load_components(first), load_components(second)
    return max(
        float((x.detach() - y.detach()).abs().max())
        for part in NETWORKS
        for x, y in zip(a[part].parameters(), b[part].parameters(), strict=True)
    )


def test_a_variant(base: Path, tmp_path: Path):
    halves = variant_base(base, tmp_path / "halves")
    assert 0 < difference(base, halves) < 2e-3
    assert load_components(halves)["unet"].dtype == torch.float32


def test_pickled_weights(base: Path, tmp_path: Path):
    assert difference(base, pickled_base(base, tmp_path / "pickled")) == 0


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmful",)


@pytest.mark.parametrize("part", NETWORKS)
def test_code_in_pickled_weights_is_not_run(base: Path, tmp_path: Path, part: str, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = pickled_base(base, tmp_path / "bad")
    [file] = (bad / part).glob("*.bin")
    torch.save({"x": Harmful()}, file)
    with pytest.raises(CheckpointError, match="cannot be loaded") as caught:
        load_components(bad)
    assert "\n" not in str(caught.value) and not (tmp_path / "harmful").exists()


@pytest.mark.parametrize(
    "names, expected",
    [
        (["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"], (True, None)),
        (["model.non_ema.safetensors", "model.fp16.safetensors"], (True, "fp16")),
        (["diffusion_pytorch_model-00001-of-00002.fp16.safetensors"], (True, "fp16")),
        (["diffusion_pytorch_model.fp16-00001-of-00002.safetensors"], (True, "fp16")),
        (["diffusion_pytorch_model-00001-of-00002.safetensors"], (True, None)),
        (["diffusion_pytorch_model.fp16.bin"], (False, "fp16")),
    ],
)
def test_the_best_files(tmp_path: Path, names: list[str], expected: tuple):
    for name in names:
        (tmp_path / name).touch()
    found = reading(tmp_path)
    assert (found["use_safetensors"], found["variant"]) == expected


def test_no_weights_at_all(tmp_path: Path):
    (tmp_path / "flax_model.msgpack").touch()
    assert not has_weights(tmp_path)
    with pytest.raises(CheckpointError, match="holds no weights .*: copy them there"):
        reading(tmp_path)


def test_the_hub_gives_a_variant_where_it_has_nothing_else(base: Path, tmp_path: Path, monkeypatch):
    halves = variant_base(base, tmp_path / "hub")
    asked = []

    def fetch(hub_id: str, ignore_patterns: list[str], **options) -> str:
        asked.append(ignore_patterns)
        target = tmp_path / f"fetched{len(asked)}"
        shutil.copytree(halves, target, ignore=shutil.ignore_patterns(*ignore_patterns))
        return str(target)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    folder = base_folder("owner/name")
    assert len(asked) == 2 and "*.bin" in asked[1]
    assert 0 < difference(base, folder) < 2e-3


# One file ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sd(tmp_path_factory) -> Path:
    """A tiny Stable Diffusion 2.1 in diffusers' layout, and `sd.safetensors` beside it."""
    folder = build_sd_layout(tmp_path_factory.mktemp("sd") / "sd", width=0.0625)
    write_single_file(folder, folder.with_suffix(".safetensors"))
    return folder


def configs_only(sd: Path, target: Path) -> Path:
    """The file, its configs beside it, and no other weights."""
    names = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(sd, target.with_suffix(""), ignore=names)
    return Path(shutil.copy(sd.with_suffix(".safetensors"), target))


def test_one_file(sd: Path, tmp_path: Path):
    file = configs_only(sd, tmp_path / "model.safetensors")
    assert difference(sd, file) == 0
    picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    results = []
    for place in (sd, file):
        pipe = OneStepSRPipeline.from_pretrained(place)
        rng = torch.Generator().manual_seed(1)
        results.append(pipe(picture, generator=rng, output_type="pt").images)
    assert torch.equal(*results)


def test_one_file_without_configs(sd: Path, tmp_path: Path):
    file = Path(shutil.copy(sd.with_suffix(".safetensors"), tmp_path / "model.safetensors"))
    with pytest.raises(CheckpointError, match="weights alone: put the configs .*model'"):
        load_components(file)


def test_one_file_that_is_damaged(sd: Path, tmp_path: Path):
    file = configs_only(sd, tmp_path / "model.safetensors")
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"model.safetensors' cannot be read"):
        load_components(file)


@pytest.mark.parametrize(
    "key", ["model.diffusion_model.out.2.bias", "cond_stage_model.model.ln_final.bias"]
)
def test_one_file_that_lacks_a_weight(sd: Path, tmp_path: Path, key: str):
    file = configs_only(sd, tmp_path / "model.safetensors")
    tensors = load_file(file)
    del tensors[key]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"model.safetensors'"):
        load_components(file)


def test_one_file_of_sdxl(sd: Path, tmp_path: Path):
    save_file({"conditioner.embedders.0.x": torch.zeros(1)}, tmp_path / "xl.safetensors")
    with pytest.raises(CheckpointError, match="SDXL is not supported"):
        load_components(tmp_path / "xl.safetensors")


def test_one_pickled_file(tmp_path: Path):
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(CheckpointError, match="must be .safetensors, for others can run code"):
        load_components(tmp_path / "model.ckpt")
