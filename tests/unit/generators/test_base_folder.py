"""Where a base comes from: mirrors in turn, parts of other folders, and who leaves the memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from gdpo_sr import inference, merge
from gdpo_sr.checkpoints.lora import add_lora, save_lora
from gdpo_sr.config.network_options import NetworkOptions
from gdpo_sr.generators.base_folder import base_folder, part_folder
from gdpo_sr.generators.load import load_components
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.trainer.build_data import build_base_generator
from gdpo_sr.types import CheckpointError
from gdpo_sr.utils.image_io import read_image, write_image
from tests.tiny_base import PROMPT, tiny_base


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of the same shapes and other weights."""
    return tiny_base(tmp_path_factory.mktemp("other") / "tiny", seed=7)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path | Exception]:
    """A hub that holds what the test puts in; nothing else can be had."""
    content: dict[str, Path | Exception] = {}

    def fetch(hub_id: str, **options) -> str:
        found = content.get(hub_id, ConnectionError("no route"))
        if isinstance(found, Exception):
            raise found
        return str(found)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    return content


def weights(network: torch.nn.Module) -> torch.Tensor:
    return next(iter(network.parameters()))


# Mirrors --------------------------------------------------------------------------------------


def test_mirrors_are_tried_in_turn(base: Path, other: Path, hub):
    hub["b/two"], hub["c/three"] = base, other
    assert base_folder(["a/one", "b/two", "c/three"]) == base
    assert base_folder(["c/three", "b/two"]) == other
    assert base_folder([base, "c/three"]) == base
    assert base_folder(["a/one", "mini"]).name == "mini"


def test_an_incomplete_mirror_is_passed_over(base: Path, other: Path, hub, tmp_path: Path):
    broken = shutil.copytree(base, tmp_path / "broken")
    shutil.rmtree(broken / "unet")
    hub["a/one"], hub["b/two"] = broken, other
    assert base_folder(["a/one", "b/two"]) == other


def test_the_message_names_all_mirrors(hub):
    with pytest.raises(CheckpointError) as caught:
        base_folder(["a/one", "b/two", "/no/folder"])
    message = str(caught.value)
    assert "none of the 3 mirrors" in message and "\n" not in message
    assert "tried 'a/one', 'b/two', '/no/folder': check the connection" in message


def test_an_offline_machine_names_all_mirrors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="tried 'nobody/one', 'nobody/two': check the conn"):
        load_components(["nobody/one", "nobody/two"])


def test_no_mirror_at_all():
    with pytest.raises(CheckpointError, match="empty list"):
        base_folder([])


# Parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [True, False])
def test_parts_of_other_folders(base: Path, other: Path, inner: bool):
    """The folder of a part, or its parent: released merged models hold unet/ and vae/."""
    folders = {part: other / part if inner else other for part in ("unet", "vae")}
    parts = load_components(base, **folders)
    own, theirs = load_components(base), load_components(other)
    assert torch.equal(weights(parts["unet"]), weights(theirs["unet"]))
    assert torch.equal(weights(parts["text_encoder"]), weights(own["text_encoder"]))
    assert not torch.equal(weights(parts["unet"]), weights(own["unet"]))


def test_parts_that_do_not_fit(base: Path, tmp_path: Path):
    AutoencoderKL(latent_channels=4).save_pretrained(tmp_path / "vae")
    with pytest.raises(CheckpointError, match="12 channels, .* makes 4: give parts of one model"):
        load_components(base, vae=tmp_path / "vae")


def test_a_part_that_is_missing(tmp_path: Path):
    with pytest.raises(CheckpointError, match="holds no config.json, nor does .*/unet"):
        part_folder(tmp_path, "unet")


def test_the_commands_take_parts(base: Path, other: Path, tmp_path: Path, capsys):
    """inference --unet, merge --unet: what the pipeline with that part does."""
    photo = tmp_path / "in" / "photo.png"
    write_image(photo, torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)))
    common = ["--color_fix", "none", "-i", str(photo.parent)]
    for name, parts in (("own", []), ("other", ["--unet", str(other), "--vae", str(other)])):
        out = tmp_path / name
        assert inference.main([*common, "-o", str(out), "--base", str(base), *parts]) == 0
    assert inference.main([*common, "-o", str(tmp_path / "whole"), "--base", str(other)]) == 0
    own, mixed, whole = (
        read_image(tmp_path / name / "photo.png") for name in ("own", "other", "whole")
    )
    assert not torch.equal(own, mixed)
    assert (mixed - whole).abs().max() < 0.2  # another text encoder, the same UNet

    torch.manual_seed(0)
    unet = load_components(other)["unet"]
    add_lora(unet)
    save_lora(unet, tmp_path / "lora")
    arguments = ["--base", "no/where", str(base), "--unet", str(other / "unet")]
    merged = tmp_path / "merged"
    assert merge.main([*arguments, "--lora", str(tmp_path / "lora"), "-o", str(merged)]) == 0
    assert torch.equal(weights(load_components(merged)["unet"]), weights(unet))


# The text encoder -----------------------------------------------------------------------------


def test_a_fixed_prompt_needs_no_text_encoder(base: Path):
    generator = build_base_generator(NetworkOptions(base=str(base)), ["negative"])
    whole = OneStepSRPipeline.from_pretrained(base).generator
    assert generator.prompt_encoder.text_encoder is None
    assert not any("text_encoder" in name for name, _ in generator.named_parameters())
    prompts = [PROMPT, "negative", "another one"]
    assert torch.equal(generator.prompt_encoder(prompts), whole.prompt_encoder(prompts))


def test_captions_keep_the_text_encoder(base: Path):
    network = NetworkOptions(base=str(base), prompts={"source": "file"}, prompt="8k")
    generator = build_base_generator(network)
    assert generator.prompt_encoder.text_encoder is not None
    assert generator.prompts_of(["a cat", ""], 2) == ["a cat, 8k", "8k"]
    assert generator.prompts_of(None, 2) == ["8k", "8k"]
