"""The full-size options files, run for a few steps on a base of Stable Diffusion 2.1's layers at an
eighth of its width, with tiny crops and rewards that need no download.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks.sd_layout import build_sd_layout
from gdpo_sr.config.load import dump_options, load_options
from gdpo_sr.config.yaml_file import parse_yaml
from gdpo_sr.train import main

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ROOT / "options"
SMALL = {
    "num_threads": 1,
    "datasets:train:dataroot_gt": ROOT / "datasets" / "example" / "train",
    "datasets:train:gt_size": 64,
    "datasets:train:num_workers": 0,
    "datasets:val:type": "OnlineDataset",
    "datasets:val:dataroot_gt": ROOT / "datasets" / "example" / "val",
    "datasets:val:dataroot_lq": "null",
    "datasets:val:gt_size": 64,
    "datasets:val:max_images": 1,
    "train:total_iter": 2,
    "val:metrics": "{}",
    "logger:show_progress": "false",
}
STAGES = {
    "naosd": {"train:losses:perceptual": "{}"},
    "gdpo_sr": {"train:group_size": 2, "train:reward:perception": "{piqe: {metric: piqe}}"},
}
PRESETS = {
    "naosd": {
        "name",
        "datasets.train.batch_size",
        "train.accumulation",
    },
    "gdpo_sr": {
        "name",
        "train.accumulation",
        "train.gradient_checkpointing",
        "train.cuda_graphs",
        "train.group_chunk",
        "train.update_chunk",
    },
}


def flatten(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and values of nested sections."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sd_layout(tmp_path_factory.mktemp("sd") / "eighth", 0.125)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["sd21", "sd21_24gb"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_of_two_updates(stage: str, preset: str, base: Path, tmp_path: Path):
    """It ends, saves adapters, and they have moved."""
    values = {"network_g:base": base, "path:experiments_root": tmp_path, "train:accumulation": 1}
    values |= {**SMALL, **STAGES[stage]}
    file = OPTIONS / f"{stage}_{preset}.yml"
    forced = [f"{key}={value}" for key, value in values.items()]
    assert main(["-opt", str(file), "--force_yml", *forced]) == 0
    folder = tmp_path / load_options(file).name / "models" / "lora_latest"
    tensors = load_file(folder / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert any(tensor.abs().max() > 0 for key, tensor in tensors.items() if "lora_B" in key)


@pytest.mark.parametrize("stage", STAGES)
def test_the_small_preset_is_the_same_run(stage: str):
    """The 24 GB files differ from the others only in how an update is cut up; its size is equal."""
    files = [OPTIONS / f"{stage}_{preset}.yml" for preset in ("sd21", "sd21_24gb")]
    large, small = (load_options(file) for file in files)
    texts = [parse_yaml(dump_options(options), "options") for options in (large, small)]
    one, other = (dict(flatten(text)) for text in texts)
    changed = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    assert {key for key in changed if not key.startswith(("logger.", "val."))} == PRESETS[stage]
    sizes = [o.datasets.train.batch_size * o.train.accumulation for o in (large, small)]
    processes = 4 if stage == "naosd" else 8
    assert sizes[1] == processes * sizes[0] == 16 // (2 if stage == "gdpo_sr" else 1)
