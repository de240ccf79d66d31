"""`gdpo-sr export`: what diffusers and PEFT make of the files, the model card, the upload."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from peft import PeftModel
from safetensors.torch import load_file

from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.checkpoints.lora import add_lora, load_lora, lora_parameters, save_lora
from gdpo_sr.checkpoints.meaning import Meaning
from gdpo_sr.cli import main as gdpo_sr
from gdpo_sr.config.load import dump_options, load_options
from gdpo_sr.config.yaml_file import parse_yaml
from gdpo_sr.export import main
from gdpo_sr.generators.base_folder import base_folder
from gdpo_sr.generators.load import load_components
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.publish import hub
from gdpo_sr.publish.model_card import without_folders
from gdpo_sr.trainer.report import Comparison, MetricComparison
from gdpo_sr.types import CheckpointError, OptionError

ROOT = Path(__file__).resolve().parents[3]


class PlainPipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """A diffusers pipeline with the LoRA loader of Stable Diffusion, and nothing of ours."""

    def __init__(self, unet: torch.nn.Module, text_encoder: torch.nn.Module) -> None:
        super().__init__()
        self.register_modules(unet=unet, text_encoder=text_encoder)


@torch.no_grad()
def fill(parameters: list[torch.nn.Parameter]) -> None:
    rng = torch.Generator().manual_seed(1)
    for parameter in parameters:
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))


@torch.no_grad()
def output(unet: torch.nn.Module) -> torch.Tensor:
    rng = torch.Generator().manual_seed(2)
    config = unet.config
    latents = torch.randn(1, config.in_channels, 16, 16, generator=rng)
    text = torch.randn(1, 5, config.cross_attention_dim, generator=rng)
    return unet(latents, 100, encoder_hidden_states=text).sample


def make_run(root: Path, base: str | Path, rank: int = 4, alpha: int | None = None) -> Path:
    """A finished run of stage 2 as the trainer leaves it."""
    forced = [f"network_g:base={base}", "network_g:t_add=300", "network_g:prompt=sharp"]
    options = load_options(ROOT / "options" / "gdpo_sr.yml", [*forced, "name=run"])
    run = root / "run"
    unet = load_components(base)["unet"].requires_grad_(False)
    add_lora(unet, rank, alpha)
    fill(lora_parameters(unet))
    save_lora(unet, run / "models" / "lora_latest")
    (run / "options.yml").write_text(dump_options(options))
    (run / "training_states" / "0000020").mkdir(parents=True)
    rows = [
        MetricComparison("psnr_y", False, True, [25.0, 27.0], [26.0, 28.5]),
        MetricComparison("niqe", True, False, [6.0, 7.0], [6.5, 6.0]),
    ]
    for step in (0, 20):
        values = Comparison(step, ["a", "b"], rows).to_json() | {"alarm": {"raised": step == 20}}
        (run / f"validation_{step:07d}.json").write_text(json.dumps(values))
    return run


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs"), base)


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "lora"
    assert main([str(run), "-o", str(folder), "--license", "mit"]) == 0
    return folder


# Files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, rank, alpha", [("tiny", 4, None), ("tiny", 2, 5), ("mini-diffusion", 4, None)]
)
def test_others_load_the_same_lora(base: Path, tmp_path: Path, caplog, name, rank, alpha):
    """A diffusers pipeline, a diffusers UNet and PEFT give what our own loader gives."""
    place = base if name == "tiny" else name
    run, folder = make_run(tmp_path, place, rank, alpha), tmp_path / "out"
    assert gdpo_sr(["export", str(run), "-o", str(folder)]) == 0
    own = load_components(place)
    plain = output(own["unet"])
    load_lora(own["unet"], folder)
    expected = output(own["unet"])
    assert (expected - plain).abs().max() > 1e-2

    def fresh() -> UNet2DConditionModel:
        unet = base_folder(place) / "unet"
        return UNet2DConditionModel.from_pretrained(unet, torch_dtype=torch.float32).eval()

    with caplog.at_level(logging.WARNING):
        pipeline = PlainPipeline(fresh(), own["text_encoder"])
        pipeline.load_lora_weights(folder)
        adapted = fresh()
        name = "pytorch_lora_weights.safetensors"
        adapted.load_lora_adapter(folder, prefix="unet", weight_name=name)
    messages = [record.getMessage() for record in caplog.records]
    assert not any("unexpected keys" in m or "missing keys" in m for m in messages)
    wrapped = PeftModel.from_pretrained(fresh(), str(folder)).eval()
    for unet in (pipeline.unet, adapted, wrapped):
        torch.testing.assert_close(output(unet), expected, atol=1e-5, rtol=0)


def test_files(exported: Path, run: Path):
    """Ours are copied; diffusers' have its names and the scale alpha / r = 2 in B."""
    assert sorted(f.name for f in exported.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "gdpo_sr.json",
        "pytorch_lora_weights.safetensors",
    ]
    ours = load_file(run / "models" / "lora_latest" / "adapter_model.safetensors")
    theirs = load_file(exported / "pytorch_lora_weights.safetensors")
    assert len(ours) == len(theirs) and all(name.startswith("unet.") for name in theirs)
    name = "conv_in.lora_{}.weight"
    for kind, scale in (("A", 1), ("B", 2)):
        own = ours[f"base_model.model.{name.format(kind)}"]
        assert torch.equal(theirs[f"unet.{name.format(kind)}"], own * scale)


def test_merged(base: Path, run: Path, tmp_path: Path):
    """The complete model restores as base and LoRA do, with the run's timesteps and prompt."""
    assert main([str(run), "-o", str(tmp_path / "model"), "--format", "merged"]) == 0
    merged = OneStepSRPipeline.from_pretrained(tmp_path / "model")
    tuned = OneStepSRPipeline.from_pretrained(base)
    tuned.load_lora_weights(run)
    torch.testing.assert_close(output(merged.unet), output(tuned.unet), atol=1e-5, rtol=0)
    assert merged.scheduler.config.t_add == 300 and merged.config.prompt == "sharp"
    assert "A complete model" in (tmp_path / "model" / "README.md").read_text()


def test_a_run_of_every_weight(base: Path, run: Path, tmp_path: Path):
    """It is complete already: copied with a card, and no LoRA can be made of it."""
    whole = tmp_path / "run"
    OneStepSRPipeline.from_pretrained(base).save_pretrained(whole / "models" / "latest")
    (whole / "options.yml").write_text((run / "options.yml").read_text())
    assert main([str(whole), "-o", str(tmp_path / "out"), "--format", "merged"]) == 0
    assert (tmp_path / "out" / "README.md").is_file()
    with pytest.raises(CheckpointError, match="trained every weight.*--format merged"):
        main([str(whole), "-o", str(tmp_path / "lora")])
    assert not (tmp_path / "lora").exists()


def test_stage_1_is_exported_merged(base: Path, tmp_path: Path):
    pipeline = OneStepSRPipeline.from_pretrained(base)
    adapters = GeneratorAdapters(pipeline.unet, pipeline.vae)
    adapters.add(2)
    fill(lora_parameters(pipeline.unet) + lora_parameters(pipeline.vae))
    adapters.save(tmp_path / "lora", Meaning(t_add=200, t_diff=100, prompt="clear"))
    with pytest.raises(CheckpointError, match="changes the VAE.*--format merged"):
        main([str(tmp_path / "lora"), "-o", str(tmp_path / "out")])
    with pytest.raises(OptionError, match="name its base with --base"):
        main([str(tmp_path / "lora"), "-o", str(tmp_path / "out"), "--format", "merged"])
    assert [f.name for f in tmp_path.iterdir()] == ["lora"]
    arguments = ["-o", str(tmp_path / "out"), "--format", "merged", "--base", str(base)]
    assert main([str(tmp_path / "lora"), *arguments]) == 0
    merged = OneStepSRPipeline.from_pretrained(tmp_path / "out")
    assert merged.scheduler.config.t_add == 200 and merged.config.prompt == "clear"


def test_adapters_that_diffusers_cannot_hold(exported: Path, tmp_path: Path):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["alpha_pattern"] = {"conv_in": 3}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="alpha_pattern.*--format merged"):
        main([str(tmp_path), "-o", str(tmp_path / "out")])


def test_nothing_to_export(tmp_path: Path):
    with pytest.raises(CheckpointError, match="holds no LoRA"):
        main([str(tmp_path), "-o", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


# Model card --------------------------------------------------------------------------------------


def test_card(exported: Path, base: Path):
    """Front matter of the hub, what was done, and the paired figures; no folder of this machine."""
    text = (exported / "README.md").read_text()
    front = parse_yaml(text.split("---")[1], "card")
    assert front["license"] == "mit" and front["library_name"] == "diffusers"
    assert "base_model" not in front  # a folder here
    assert "# run\n" in text and "GDPO-SR stage 2" in text and "x4" in text
    assert f"- base: `{base.name}`, a folder of the author" in text
    assert "- updates: 20 of" in text and "- training photos: `train`" in text
    assert "after 20 updates on 2 validation photos (a, b)" in text
    assert "| psnr_y | higher | yes | 26.0000 | 27.2500 | +1.2500 | 0.2500 | 2/2 |" in text
    assert "| niqe | lower | no | 6.5000 | 6.2500 | -0.2500 | 0.7500 | 1/2 |" in text
    assert "raised an alarm" in text
    assert str(base.parent) not in text and str(ROOT) not in text
    assert parse_yaml(text.split("```yaml\n")[1].split("```")[0], "options")["name"] == "run"


def test_card_of_a_lora_from_nowhere(exported: Path, tmp_path: Path):
    """A licence is never made up, nor a base or figures; a hub id of a base is linked."""
    source = tmp_path / "lora"
    source.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (source / name).write_bytes((exported / name).read_bytes())
    for number, arguments in enumerate(([], ["--base", "owner/name"])):
        out = tmp_path / str(number)
        assert main([str(source), "-o", str(out), *arguments]) == 0
        text = (out / "README.md").read_text()
        front = parse_yaml(text.split("---")[1], "card")
        assert "license" not in front and "Not stated" in text and "None: no validation" in text
        assert front.get("base_model") == ("owner/name" if arguments else None)
    assert 'from_pretrained("owner/name")' in text


def test_figures_belong_to_the_newest_model(run: Path, tmp_path: Path):
    """An earlier model that the run kept gets the options, not the last validation."""
    older = tmp_path / "run"
    (older / "models").mkdir(parents=True)
    for name in ("options.yml", "validation_0000020.json"):
        (older / name).write_text((run / name).read_text())
    best = older / "models" / "lora_best"
    best.mkdir()
    for file in (run / "models" / "lora_latest").iterdir():
        (best / file.name).write_bytes(file.read_bytes())
    assert main([str(best), "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "GDPO-SR stage 2" in text and "None: no validation" in text


def test_folders_are_cut():
    values = {"a": "/home/user/photos", "b": ["~/x/y", "owner/name", "datasets/train"], "c": 3}
    assert without_folders(values) == {
        "a": "photos",
        "b": ["y", "owner/name", "datasets/train"],
        "c": 3,
    }


# Hub ---------------------------------------------------------------------------------------------


class FakeHub:
    """Records what would be sent."""

    calls: list[tuple] = []
    error: Exception | None = None

    def create_repo(self, repo_id: str, exist_ok: bool) -> str:
        self.calls.append(("create", repo_id, exist_ok))
        return f"https://hub/{repo_id}"

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
        if self.error is not None:
            raise self.error
        names = sorted(file.name for file in Path(folder_path).iterdir())
        self.calls.append(("upload", repo_id, names))


@pytest.fixture
def fake_hub(monkeypatch) -> type[FakeHub]:
    monkeypatch.setattr(FakeHub, "calls", [])
    monkeypatch.setattr(FakeHub, "error", None)
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return FakeHub


def test_push(run: Path, tmp_path: Path, fake_hub, capsys):
    arguments = [str(run), "-o", str(tmp_path / "out"), "--push_to_hub", "owner/name"]
    assert main(arguments) == 0
    create, upload = fake_hub.calls
    assert create == ("create", "owner/name", True)
    assert upload[:2] == ("upload", "owner/name") and "README.md" in upload[2]
    assert "https://hub/owner/name" in capsys.readouterr().out
    assert "# name\n" in (tmp_path / "out" / "README.md").read_text()


def test_nothing_is_sent_unasked(run: Path, tmp_path: Path, fake_hub):
    assert main([str(run), "-o", str(tmp_path / "out")]) == 0
    assert fake_hub.calls == []


@pytest.mark.parametrize(
    "hub_id, token, offline, message",
    [
        ("name", "token", False, "write OWNER/NAME"),
        ("owner/a b", "token", False, "write OWNER/NAME"),
        ("owner/name", None, False, "hf auth login"),
        ("owner/name", "token", True, "HF_HUB_OFFLINE is set"),
    ],
)
def test_no_upload_is_found_out_first(
    run: Path, tmp_path: Path, fake_hub, monkeypatch, hub_id, token, offline, message
):
    """Before anything is written."""
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(OptionError, match=message) as error:
        main([str(run), "-o", str(tmp_path / "out"), "--push_to_hub", hub_id])
    assert "\n" not in str(error.value)
    assert fake_hub.calls == [] and list(tmp_path.iterdir()) == []


def test_a_failed_upload_keeps_the_folder(tmp_path: Path, fake_hub, monkeypatch):
    monkeypatch.setattr(fake_hub, "error", ConnectionError("no route\nto host"))
    (tmp_path / "README.md").write_text("card")
    with pytest.raises(CheckpointError, match=r"no route\): .* hf upload owner/name") as error:
        hub.push_folder(tmp_path, "owner/name")
    assert "\n" not in str(error.value) and (tmp_path / "README.md").is_file()
