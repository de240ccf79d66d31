"""An adapter knows base, timesteps and prompt of its training, and whoever loads it obeys."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.checkpoints.load_adapter import continue_adapter, load_adapter
from gdpo_sr.checkpoints.lora import add_lora, lora_parameters, save_lora
from gdpo_sr.checkpoints.meaning import Meaning, base_of, given_in, read_meaning, sample_weights
from gdpo_sr.config.network_options import NetworkOptions
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.inference import main as inference
from gdpo_sr.merge import main as merge
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.restore import manifest
from gdpo_sr.types import CheckpointError
from gdpo_sr.utils.image_io import read_image, write_image
from tests.tiny_base import tiny_base


@torch.no_grad()
def fill(parameters) -> None:
    rng = torch.Generator().manual_seed(1)
    for parameter in parameters:
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))


def generator_of(base: Path, **options) -> NoiseAwareGenerator:
    return build_generator(load_components(base, **options))


def settings(generator: NoiseAwareGenerator) -> tuple[int, int, str]:
    t = generator.scheduler.config
    return t.t_add, t.t_diff, generator.prompt


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory) -> Path:
    """What stage 2 leaves after a training with t_add 400, t_diff 120 and the prompt hello."""
    options = NetworkOptions(base=str(base), t_add=400, t_diff=120, prompt="hello")
    generator = generator_of(base, t_add=400, t_diff=120)
    generator.prompt = "hello"
    add_lora(generator.unet)
    meaning = Meaning.of(generator, options)
    fill(lora_parameters(generator.unet))
    folder = tmp_path_factory.mktemp("runs") / "run"
    save_lora(generator.unet, folder / "models" / "lora_latest", meaning)
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    write_image(tmp_path / "photos" / "a.png", image)
    return tmp_path / "photos"


def restored(photo: Path, out: Path, *arguments: str) -> torch.Tensor:
    assert inference(["-i", str(photo), "-o", str(out), "--color_fix", "none", *arguments]) == 0
    return read_image(out / "a.png")


def test_inference_restores_as_the_run_was_trained(run, base, photo, tmp_path):
    """Without a word of base, timestep or prompt; spelled out it is the same picture."""
    found = restored(photo, tmp_path / "out", "--lora", str(run))
    by_hand = tmp_path / "by_hand"
    shutil.copytree(run / "models" / "lora_latest", by_hand)
    (by_hand / "gdpo_sr.json").unlink()  # as version 0.1 wrote it
    pipe = OneStepSRPipeline.from_pretrained(base, t_add=400, t_diff=120)
    pipe.load_lora_weights(by_hand)
    pipe.register_to_config(prompt="hello")
    plain = tmp_path / "base"
    pipe.merge_lora_weights()
    pipe.save_pretrained(plain)
    expected = restored(photo, tmp_path / "expected", "--base", str(plain))
    assert torch.equal(found, expected)
    ignored = restored(photo, tmp_path / "ignored", "--lora", str(by_hand), "--base", str(base))
    assert not torch.equal(found, ignored)


@pytest.mark.parametrize("flag", [["--t_add", "100"], ["--prompt", "other"]])
def test_a_flag_goes_before_the_training_and_says_so(run, photo, tmp_path, caplog, flag):
    usual = restored(photo, tmp_path / "usual", "--lora", str(run))
    assert "replaces" not in caplog.text
    changed = restored(photo, tmp_path / "changed", "--lora", str(run), *flag)
    assert not torch.equal(usual, changed)
    assert f"{flag[0][2:]} = " in caplog.text and "of the LoRA's training" in caplog.text


def test_the_pipeline_obeys(run, base, caplog):
    pipe = OneStepSRPipeline.from_pretrained(base)
    pipe.load_lora_weights(run)
    assert settings(pipe.generator) == (400, 120, "hello") and pipe.config.prompt == "hello"
    assert not caplog.records
    pipe = OneStepSRPipeline.from_pretrained(base, t_add=100)
    pipe.load_lora_weights(run)
    assert settings(pipe.generator) == (100, 120, "hello")
    assert "t_add = 100, given, replaces 400" in caplog.text


def test_merging_obeys(run, base, tmp_path):
    """The base is that of the training, and the merged model carries the rest."""
    assert merge(["--lora", str(run), "-o", str(tmp_path / "merged")]) == 0
    merged = generator_of(tmp_path / "merged")
    assert settings(merged) == (400, 120, "hello")
    own = generator_of(base)
    load_adapter(own, run)
    noisy, embeds = torch.randn(1, 12, 4, 4), torch.zeros(1, 8, 16)
    torch.testing.assert_close(
        merged.predict_epsilon(noisy, embeds), own.predict_epsilon(noisy, embeds), atol=1e-5, rtol=0
    )


def test_training_goes_on_as_it_was_but_for_what_the_options_say(run, base, caplog):
    generator = generator_of(base, t_add=300)
    options = NetworkOptions(base=str(base), t_add=300)
    continue_adapter(generator, run, given_in(options))
    assert settings(generator) == (300, 120, "hello")
    assert "t_add = 300, given, replaces 400" in caplog.text
    assert all(p.requires_grad for p in lora_parameters(generator.unet))


def test_another_base_is_told(run, base, tmp_path, caplog):
    """Of the same shape: another seed. Half precision of the right one is the right one."""
    load_adapter(generator_of(base, dtype=torch.bfloat16), run)
    assert not caplog.records
    load_adapter(generator_of(tiny_base(tmp_path / "other", seed=1)), run)
    assert "was trained on another base" in caplog.text and str(base) in caplog.text


def test_a_run_of_version_0_1_is_known_by_its_options(run, base, tmp_path):
    old = shutil.copytree(run, tmp_path / "run")
    (old / "models" / "lora_latest" / "gdpo_sr.json").unlink()
    text = f"network_g: {{base: {base}, t_add: 350, t_diff: null, prompt: old, prompts: {{}}}}\n"
    (old / "options.yml").write_text(text)
    generator = generator_of(base)
    load_adapter(generator, old)
    assert settings(generator) == (350, 100, "old")
    assert base_of(read_meaning(old / "models" / "lora_latest"), {})["base"] == str(base)


def test_stage_1_of_version_0_1_is_known_by_its_json(base, tmp_path):
    generator = generator_of(base)
    adapters = GeneratorAdapters(generator.unet, generator.vae)
    adapters.add(2)
    adapters.save(tmp_path / "lora", Meaning())
    (tmp_path / "lora" / "gdpo_sr.json").unlink()
    old = {"t_add": 200, "t_diff": 90, "prompt": "clear"}
    (tmp_path / "lora" / "stage1.json").write_text(json.dumps(old))
    fresh = generator_of(base)
    load_adapter(fresh, tmp_path / "lora")
    assert settings(fresh) == (200, 90, "clear")
    assert lora_parameters(fresh.vae)


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_scale_is_a_dial(run, base, scale):
    """0 is the base; a half is half of every change of a weight."""
    noisy, embeds = torch.randn(1, 12, 4, 4), torch.zeros(1, 8, 16)
    plain, dialled, whole = (generator_of(base) for _ in range(3))
    load_adapter(dialled, run, scale=scale)
    load_adapter(whole, run)
    if scale == 0:
        assert torch.equal(
            dialled.unet(noisy, 1, embeds).sample, plain.unet(noisy, 1, embeds).sample
        )
    weights = [g.unet.conv_in.get_delta_weight("default") for g in (dialled, whole)]
    torch.testing.assert_close(weights[0], weights[1] * scale)


def test_stage_1_has_the_dial_too(base, tmp_path):
    generator = generator_of(base)
    adapters = GeneratorAdapters(generator.unet, generator.vae)
    adapters.add(2)
    fill(adapters.parameters().values())
    adapters.save(tmp_path / "lora", Meaning())
    images, plain, dialled = torch.rand(1, 3, 16, 16), generator_of(base), generator_of(base)
    load_adapter(dialled, tmp_path / "lora", scale=0.0)
    noise = torch.randn(plain.latent_shape(images))
    assert torch.equal(dialled(images, noise), plain(images, noise))


@pytest.mark.parametrize(
    "name, text",
    [
        ("gdpo_sr.json", "{"),
        ("gdpo_sr.json", "[]"),
        ("gdpo_sr.json", '{"t_add": "many"}'),
        ("gdpo_sr.json", '{"t_add": true}'),
        ("gdpo_sr.json", '{"prompt": 3}'),
        ("gdpo_sr.json", '{"prediction_type": "none"}'),
        ("gdpo_sr.json", '{"weights": {"conv_out.weight": "x"}}'),
        ("gdpo_sr.json", '{"weights": {"conv_out.weight": ["x"]}}'),
        ("stage1.json", '{"t_add": {}}'),
    ],
)
def test_a_damaged_meaning_is_one_line(run, base, tmp_path, name, text):
    folder = shutil.copytree(run / "models" / "lora_latest", tmp_path / "lora")
    (folder / "gdpo_sr.json").unlink()
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=name) as told:
        load_adapter(generator_of(base), folder)
    assert "\n" not in str(told.value)


def test_the_sample_ignores_adapters_and_what_stage_1_replaces(base):
    plain, trained = generator_of(base), generator_of(base)
    adapters = GeneratorAdapters(trained.unet, trained.vae)
    adapters.add(2)
    fill(adapters.parameters().values())
    assert sample_weights(trained.unet) == sample_weights(plain.unet)
    assert sum(map(len, sample_weights(plain.unet).values())) > 60


def test_the_manifest_knows_the_scale(run, photo, tmp_path, capsys):
    restored(photo, tmp_path / "out", "--lora", str(run))
    restored(photo, tmp_path / "out", "--lora", str(run), "--lora_scale", "0.5")
    assert "made by other settings (lora)" in capsys.readouterr().out
    assert len(list(manifest.read(tmp_path / "out"))) == 2
