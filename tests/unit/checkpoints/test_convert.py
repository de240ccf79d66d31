"""`gdpo-sr convert` on adapters of our own that are written in the released layout.

Recordings of the released code itself: tests/integration/test_golden_convert.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file

from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.checkpoints.load_adapter import merged_generator
from gdpo_sr.checkpoints.lora import adapter_of, add_lora, lora_parameters, save_lora
from gdpo_sr.checkpoints.meaning import Meaning, sample_weights
from gdpo_sr.checkpoints.model_folder import components_of, save_model_folder
from gdpo_sr.cli import main as gdpo_sr
from gdpo_sr.convert import main
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.types import CheckpointError, GDPOSRError, OptionError
from tests.released_checkpoints import released_state
from tests.tiny_base import tiny_base

RANK = 2


@torch.no_grad()
def fill(parameters: list[torch.nn.Parameter], seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))


def autoencoder() -> AutoencoderKL:
    """Of Stable Diffusion's shape, for latents of the tiny base."""
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=12,
        norm_num_groups=4,
    )


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory) -> SimpleNamespace:
    """Base, adapters of stage 1 in our layout and the released one, the same of stage 2."""
    root = tmp_path_factory.mktemp("convert")
    pipeline = OneStepSRPipeline.from_pretrained(base)
    pipeline.vae = autoencoder().requires_grad_(False)
    pipeline.save_pretrained(root / "base")
    adapters = GeneratorAdapters(pipeline.unet, pipeline.vae)
    adapters.add(RANK)
    fill(lora_parameters(pipeline.unet) + lora_parameters(pipeline.vae), 1)
    with torch.no_grad():
        adapters.conv_in.weight.mul_(1.5)
    settings = {"t_add": 250, "t_diff": 100, "prompt": "clean, high-resolution, 8k"}
    adapters.save(root / "lora1", Meaning(**settings))
    unet, vae = (adapter_of(n).tensors for n in (pipeline.unet, pipeline.vae))
    state = released_state(unet, adapters.conv_in.state_dict(), vae, RANK)
    torch.save(state, root / "stage1.pkl")

    tuned = merged_generator(root / "lora1", {"base": root / "base"})
    save_model_folder(components_of(tuned), root / "merged1")
    conv_in = {name: value.clone() for name, value in tuned.unet.conv_in.state_dict().items()}
    add_lora(tuned.unet, RANK)
    fill(lora_parameters(tuned.unet), 2)
    save_lora(tuned.unet, root / "lora2", Meaning())
    torch.save(
        released_state(adapter_of(tuned.unet).tensors, conv_in, {}, RANK), root / "stage2.pkl"
    )
    return SimpleNamespace(root=root, **{name: str(root / name) for name in ("base", "merged1")})


def weights(model: Path, part: str) -> dict[str, torch.Tensor]:
    return load_file(model / part / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("stage, on", [(1, None), (1, "base"), (2, None), (2, "merged1")])
def test_a_lora_is_what_our_trainer_writes(made, tmp_path: Path, stage: int, on: str | None):
    """Every file of the folder, bit for bit, so that whatever takes one takes the other."""
    out = tmp_path / "lora"
    arguments = [] if on is None else ["--base", getattr(made, on)]
    assert main([str(made.root / f"stage{stage}.pkl"), "-o", str(out), *arguments]) == 0
    own = made.root / f"lora{stage}"
    names = sorted(str(f.relative_to(own)) for f in own.rglob("*") if f.is_file())
    assert names == sorted(str(f.relative_to(out)) for f in out.rglob("*") if f.is_file())
    for name in names:
        if name == "gdpo_sr.json":
            expected = json.loads((own / name).read_text())
            if on is not None:
                original = OneStepSRPipeline.from_pretrained(getattr(made, on)).unet
                expected |= {"base": getattr(made, on), "weights": sample_weights(original)}
            assert json.loads((out / name).read_text()) == expected
            continue
        if name.endswith(".json"):
            assert json.loads((out / name).read_text()) == json.loads((own / name).read_text())
            continue
        ours, theirs = load_file(own / name), load_file(out / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert [f.name for f in tmp_path.iterdir()] == ["lora"]


@pytest.mark.parametrize("stage, on", [(1, "base"), (2, "merged1")])
def test_a_merged_model(made, tmp_path: Path, stage: int, on: str, capsys):
    """The same weights as our own merge gives; stage 2 keeps timesteps and prompt of its base."""
    out = tmp_path / "model"
    path = made.root / f"stage{stage}.pkl"
    arguments = [str(path), "-o", str(out), "--base", getattr(made, on), "--merged"]
    assert gdpo_sr(["convert", *arguments, "--t_add", "300"]) == 0
    assert str(out) in capsys.readouterr().out
    expected = merged_generator(made.root / f"lora{stage}", {"base": getattr(made, on)})
    for part in ("unet", "vae"):
        found = weights(out, part)
        for name, tensor in getattr(expected, part).state_dict().items():
            torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=0)
    merged = OneStepSRPipeline.from_pretrained(out)
    t = merged.scheduler.config
    assert (t.t_add, t.t_diff) == (300, 100)
    assert merged.config.prompt == "clean, high-resolution, 8k"


@pytest.mark.parametrize("part", ["unet", "vae", "both"])
def test_released_folders(made, tmp_path: Path, part: str):
    """unet/ and vae/ replace those of the base; the other parts are the base's."""
    parts = ["unet", "vae"] if part == "both" else [part]
    released = tmp_path / "released"
    released.mkdir()
    for name in parts:
        (released / name).symlink_to(Path(made.merged1) / name)
    out = tmp_path / "model"
    assert main([str(released), "-o", str(out), "--base", made.base]) == 0
    for name in ("unet", "vae"):
        source = made.merged1 if name in parts else made.base
        ours, theirs = weights(out, name), weights(Path(source), name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert OneStepSRPipeline.from_pretrained(out).scheduler.config.t_add == 250


@pytest.fixture(scope="module")
def bad(made, tmp_path_factory) -> dict[str, list[str]]:
    """Command lines that must fail, by what is wrong."""
    root = tmp_path_factory.mktemp("bad")
    (root / "text.pkl").write_text("no checkpoint")
    (root / "four.pkl").write_bytes(b"junk")
    (root / "other.safetensors").write_bytes(b"junk" * 9)
    torch.save({"step": 3}, root / "other.pkl")
    state = torch.load(made.root / "stage2.pkl", weights_only=True)
    tensors = state["state_dict_unet"]
    odd = {f"extra.lora_{k}.default_others.weight": torch.zeros(2, 2) for k in "AB"}
    lists = {"unet_lora_others_modules": [*state["unet_lora_others_modules"], "extra"]}
    torch.save({**state, **lists, "state_dict_unet": tensors | odd}, root / "module.pkl")
    tiny_base(root / "wider", channels=(32, 32))
    (root / "empty").mkdir()
    config = dict(OneStepSRPipeline.from_pretrained(made.base).unet.config)
    narrow = UNet2DConditionModel.from_config({**config, "cross_attention_dim": 8})
    narrow.save_pretrained(root / "narrow" / "unet")
    first, second = (str(made.root / f"stage{stage}.pkl") for stage in (1, 2))
    return {
        "is no file": [str(root / "none.pkl")],
        "read safely": [str(root / "text.pkl")],
        "four.pkl' holds no tensors": [str(root / "four.pkl")],
        "other.safetensors' holds no tensors": [str(root / "other.safetensors")],
        "other.pkl' holds 'step'": [str(root / "other.pkl")],
        "a module that the released code does not adapt": [str(root / "module.pkl")],
        "stage1.pkl': the weight of conv_in has shape (16": [first, "--base", str(root / "wider")],
        "stage2.pkl': conv_in.lora_B.weight": [second, "--base", str(root / "wider")],
        "merged model of its stage 1 as --base": [second, "--base", made.base],
        "--merged needs": [first, "--merged"],
        "holds networks only": [made.merged1],
        "holds neither unet/config.json": [str(root / "empty"), "--base", made.base],
        "empty' holds neither unet/config.json": [str(root / "empty")],
        "text embeddings of width 8": [str(root / "narrow"), "--base", made.base],
    }


MESSAGES = [
    "is no file",
    "read safely",
    "four.pkl' holds no tensors",
    "other.safetensors' holds no tensors",
    "other.pkl' holds 'step'",
    "a module that the released code does not adapt",
    "stage1.pkl': the weight of conv_in has shape (16",
    "stage2.pkl': conv_in.lora_B.weight",
    "merged model of its stage 1 as --base",
    "--merged needs",
    "holds networks only",
    "holds neither unet/config.json",
    "empty' holds neither unet/config.json",
    "text embeddings of width 8",
]


@pytest.mark.parametrize("message", MESSAGES)
def test_mistakes_leave_nothing_behind(bad, tmp_path: Path, message: str):
    with pytest.raises(GDPOSRError) as error:
        main([*bad[message], "-o", str(tmp_path / "out")])
    assert message in str(error.value) and "\n" not in str(error.value)
    assert isinstance(error.value, (CheckpointError, OptionError))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(made, tmp_path: Path):
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists"):
        main([str(made.root / "stage2.pkl"), "-o", str(tmp_path)])
    assert [f.name for f in tmp_path.iterdir()] == ["keep.txt"]
