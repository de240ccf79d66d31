"""OSEDiff's, HYPIR's and PiSA-SR's checkpoints do here what their own forward passes do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdpo_sr import inference
from gdpo_sr.checkpoints.origins import HYPIR, OSEDIFF, PISA_SR
from gdpo_sr.checkpoints.released_layout import read_layout
from gdpo_sr.convert import main
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.types import CheckpointError, OptionError
from gdpo_sr.utils.image_io import read_image, write_image
from tests import other_models
from tests.other_models import sd_shaped_base

KINDS = {
    "osediff.pkl": (other_models.OSEDiff, OSEDIFF),
    "HYPIR_sd2.pth": (other_models.HYPIR, HYPIR),
    "pisa_sr.pkl": (other_models.PiSASR, PISA_SR),
}
NAMES = list(KINDS)


@pytest.fixture(scope="module")
def sd(base: Path, tmp_path_factory) -> Path:
    return sd_shaped_base(tmp_path_factory.mktemp("sd") / "sd", base)


@pytest.fixture(scope="module")
def models(sd: Path, tmp_path_factory) -> dict:
    """Each model, and its file."""
    root = tmp_path_factory.mktemp("theirs")
    built = {name: kind(sd) for name, (kind, _) in KINDS.items()}
    return {name: (model, model.save(root / name)) for name, model in built.items()}


def images(count: int = 1) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 32, 32, generator=rng) * 2 - 1


def draws(count: int = 1) -> torch.Tensor:
    return torch.randn(count, 12, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def restored(network: NoiseAwareGenerator, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """With the same draw of the posterior; what is to be injected must not count."""
    latents = network.encode(x, noise)
    embeds = network.prompt_encoder([network.prompt] * len(x))
    return network.decode(network.restore_latents(latents, 1e3 * noise, embeds))


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_it_does_what_theirs_does(sd: Path, models, tmp_path: Path, name: str, merged: bool):
    theirs, file = models[name]
    flags = ["--merged"] if merged else []
    assert main([str(file), "-o", str(tmp_path / "out"), "--base", str(sd), *flags]) == 0
    pipe = OneStepSRPipeline.from_pretrained(tmp_path / "out" if merged else sd)
    if not merged:
        pipe.load_lora_weights(tmp_path / "out")
    expected = theirs(images(2), draws(2))
    plain = restored(OneStepSRPipeline.from_pretrained(sd, t_add=-1).generator, images(2), draws(2))
    assert (expected - plain).abs().max() > 0.1
    found = restored(pipe.generator, images(2), draws(2))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    config, origin = pipe.scheduler.config, KINDS[name][1]
    assert (config.t_add, config.t_diff, pipe.config.prompt) == origin[1:4]


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_pipeline(sd: Path, models, tmp_path: Path, name: str):
    """Their pass on the mean of the posterior, for any seed."""
    theirs, file = models[name]
    assert main([str(file), "-o", str(tmp_path / "m"), "--base", str(sd), "--merged"]) == 0
    pipe = OneStepSRPipeline.from_pretrained(tmp_path / "m")
    picture = (images() + 1) / 2
    options = {"scale": 1, "color_fix": "none", "output_type": "pt"}
    first, second = (
        pipe(picture, generator=torch.Generator().manual_seed(seed), **options).images
        for seed in (0, 1)
    )
    assert torch.equal(first, second)
    expected = theirs(images(), torch.zeros(1, 12, 8, 8)) / 2 + 0.5
    torch.testing.assert_close(first, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pixel, semantic", [(0.7, 1.0), (1.0, 1.4), (0.0, 0.5)])
def test_the_dials_of_pisa_sr(sd: Path, models, tmp_path: Path, pixel: float, semantic: float):
    theirs, file = models["pisa_sr.pkl"]
    assert main([str(file), "-o", str(tmp_path / "lora"), "--base", str(sd)]) == 0
    pipe = OneStepSRPipeline.from_pretrained(sd)
    pipe.load_pixel_semantic(tmp_path / "lora", pixel, semantic)
    expected = theirs(images(2), draws(2), pixel=pixel, semantic=semantic)
    found = restored(pipe.generator, images(2), draws(2))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (expected - theirs(images(2), draws(2))).abs().max() > 1e-3
    with pytest.raises(CheckpointError, match="on a model without another LoRA"):
        pipe.load_pixel_semantic(tmp_path / "lora", 1.0, 1.0)


def test_the_dials_on_the_command_line(sd: Path, models, tmp_path: Path):
    _, file = models["pisa_sr.pkl"]
    lora, photo = tmp_path / "lora", tmp_path / "in" / "photo.png"
    assert main([str(file), "-o", str(lora)]) == 0
    write_image(photo, (images()[0, :, :8, :8] + 1) / 2)
    common = ["-i", str(photo.parent), "--base", str(sd), "--color_fix", "none"]
    results = []
    for name, dials in (("sum", []), ("more", ["--semantic_scale", "1.5"])):
        out = tmp_path / name
        assert inference.main([*common, "-o", str(out), "--lora", str(lora), *dials]) == 0
        results.append(read_image(out / "photo.png"))
    assert not torch.equal(*results)
    with pytest.raises(OptionError, match="need --lora: one of PiSA-SR"):
        inference.main([*common, "-o", str(tmp_path / "x"), "--pixel_scale", "0.5"])


def state_of(models, name: str) -> dict:
    return torch.load(models[name][1], weights_only=True)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_known_by_its_keys(models, name: str):
    assert read_layout(state_of(models, name), name).origin == KINDS[name][1]


def test_defects_are_named(models):
    hypir, pisa = state_of(models, "HYPIR_sd2.pth"), state_of(models, "pisa_sr.pkl")
    key = next(iter(hypir))
    with pytest.raises(CheckpointError, match=f"'{key}' is a int, expected a tensor"):
        read_layout({**hypir, key: 3}, "h.pth")
    narrow = {k: v[:2] if ".lora_A." in k and k == key else v for k, v in hypir.items()}
    with pytest.raises(CheckpointError, match=r"ranks \[2, 256\]"):
        read_layout(narrow, "h.pth")
    with pytest.raises(CheckpointError, match="lacks 'unet_lora_others_modules_sem'"):
        read_layout({k: v for k, v in pisa.items() if k != "unet_lora_others_modules_sem"}, "p.pkl")
    extra = pisa["state_dict_unet"] | {"x.lora_A.default_others_sem.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="of them of listed modules"):
        read_layout({**pisa, "state_dict_unet": extra}, "p.pkl")
    first = next(iter(pisa["state_dict_unet"]))
    fewer = {k: v for k, v in pisa["state_dict_unet"].items() if k != first}
    with pytest.raises(CheckpointError, match=f"'{first}' is a NoneType"):
        read_layout({**pisa, "state_dict_unet": fewer}, "p.pkl")
    with pytest.raises(CheckpointError, match="lora_rank_unet_pix is no rank"):
        read_layout({**pisa, "lora_rank_unet_pix": "4"}, "p.pkl")
