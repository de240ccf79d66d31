"""load_components: what a broken or missing base gets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.types import CheckpointError, OptionError
from tests.tiny_base import PROMPT, tiny_base

PARTS = ["unet", "vae", "text_encoder", "tokenizer", "scheduler"]
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def base(saved: Path, tmp_path: Path) -> Path:
    """A copy to be broken."""
    return shutil.copytree(saved, tmp_path / "base")


def assert_refused(base: Path | str, words: str) -> None:
    """One line that names the base and holds `words`."""
    with pytest.raises(CheckpointError, match=words) as caught:
        load_components(base)
    message = str(caught.value)
    assert str(base) in message and "\n" not in message


def test_complete_base(base: Path):
    parts = load_components(base, t_add=300)
    assert set(parts) == {*PARTS, "prompt"} and parts["prompt"] == PROMPT
    assert (parts["scheduler"].config.t_add, parts["scheduler"].config.t_diff) == (300, 100)
    generator = build_generator(parts)
    assert not generator.training and not any(p.requires_grad for p in generator.parameters())


def test_without_an_index_the_prompt_is_empty(base: Path):
    (base / "model_index.json").unlink()
    assert load_components(base)["prompt"] == ""


def test_half_precision(base: Path):
    parts = load_components(base, dtype=torch.bfloat16)
    assert {parts[name].dtype for name in WEIGHTS} == {torch.bfloat16}


@pytest.mark.parametrize("base", ["/no/such/folder", "minni", "./a/b"])
def test_missing_folder(base: str):
    assert_refused(base, "no folder and no hub id: use 'mini', an existing folder or .safetensors")


@pytest.mark.parametrize("part", PARTS)
def test_missing_part(base: Path, part: str):
    shutil.rmtree(base / part)
    assert_refused(base, f"lacks {part}/.*diffusers layout")


def test_empty_tokenizer_folder(base: Path):
    shutil.rmtree(base / "tokenizer")
    (base / "tokenizer").mkdir()
    assert_refused(base, "lacks tokenizer/tokenizer.json or vocab.json")


@pytest.mark.parametrize("name", ["VQModel", None])
def test_wrong_autoencoder_class(base: Path, name: str | None):
    config = base / "vae" / "config.json"
    content = {**json.loads(config.read_text()), "_class_name": name}
    config.write_text(json.dumps(content))
    assert_refused(base, f"holds a {name!r}: use one of AutoencoderKL, LappedAutoencoder")


@pytest.mark.parametrize("part", WEIGHTS)
def test_truncated_weights(base: Path, part: str):
    path = base / part / WEIGHTS[part]
    path.write_bytes(path.read_bytes()[:1000])
    assert_refused(base, "cannot be loaded")


@pytest.mark.parametrize("part", WEIGHTS)
def test_missing_weights_file(base: Path, part: str):
    (base / part / WEIGHTS[part]).unlink()
    assert_refused(base, f"{part}' holds no weights .*safetensors")


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_missing_weight_is_not_drawn_at_random(base: Path, part: str):
    path = base / part / WEIGHTS[part]
    tensors = load_file(path)
    key = sorted(tensors)[0]
    del tensors[key]
    save_file(tensors, path, metadata={"format": "pt"})
    assert_refused(base, "lacks 1 weights")


@pytest.mark.parametrize("part", WEIGHTS)
def test_weight_of_another_shape(base: Path, part: str):
    path = base / part / WEIGHTS[part]
    tensors = load_file(path)
    key = sorted(tensors)[0]
    tensors[key] = torch.cat([tensors[key], tensors[key]])
    save_file(tensors, path, metadata={"format": "pt"})
    assert_refused(base, "cannot be loaded")


@pytest.mark.parametrize("name", ["unet/config.json", "vae/config.json", "model_index.json"])
def test_damaged_json(base: Path, name: str):
    (base / name).write_text("{")
    assert_refused(base, "cannot be read")


@pytest.mark.parametrize("name", ["t_add", "t_diff"])
def test_timestep_outside_the_schedule(base: Path, name: str):
    with pytest.raises(OptionError, match=f"{name} = 1000: choose an integer in 0 .. 999"):
        load_components(base, **{name: 1000})


def test_unknown_hub_id_offline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_refused("nobody/nothing", "not on this disk and could not be fetched .* or use 'mini'")


def test_failing_connection(monkeypatch: pytest.MonkeyPatch):
    def fail(*args, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    assert_refused("nobody/nothing", r"could not be fetched \(ConnectionError\)")
