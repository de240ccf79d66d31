"""Stage 2 on somebody else's one-step model: convert, one update, a LoRA that has moved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gdpo_sr.checkpoints.lora import add_lora, load_lora, save_lora
from gdpo_sr.convert import main as convert
from gdpo_sr.generators.load import base_folder, load_components
from gdpo_sr.merge import main as merge
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.types import CheckpointError, OptionError
from tests import other_models
from tests.integration.test_training import build, trained
from tests.other_models import sd_shaped_base

POSTERIOR = {"train__diversity": "{source: posterior}"}
LR = {"train__update_input": "lr", "train__target": "x0"}


@pytest.fixture(scope="module")
def sd(base: Path, tmp_path_factory) -> Path:
    return sd_shaped_base(tmp_path_factory.mktemp("sd") / "sd", base)


def checkpoint(kind: str, sd: Path, root: Path) -> Path:
    """Somebody's file."""
    if kind == "OSEDiff":
        return other_models.OSEDiff(sd).save(root / "osediff.pkl")
    if kind == "HYPIR":
        return other_models.HYPIR(sd, rank=8).save(root / "HYPIR_sd2.pth")
    theirs = other_models.OSEDiff(sd).save(root / "as_osediff.pkl")
    state = torch.load(theirs, weights_only=True)
    names = {f"vae_lora_{part}_modules": [] for part in ("decoder", "others")}
    torch.save(state | names, root / "gdpo.pkl")
    return root / "gdpo.pkl"


@pytest.fixture(scope="module")
def bases(sd: Path, tmp_path_factory) -> dict[str, Path]:
    """Complete models."""
    found = {}
    for kind in ("GDPO-SR", "OSEDiff", "HYPIR"):
        root = tmp_path_factory.mktemp(kind)
        file = checkpoint(kind, sd, root)
        assert convert([str(file), "-o", str(root / "m"), "--base", str(sd), "--merged"]) == 0
        found[kind] = root / "m"
    return found


@pytest.mark.parametrize(
    "kind, t, changes",
    [
        ("GDPO-SR", (250, 100), {}),
        ("OSEDiff", (-1, 999), POSTERIOR),
        ("OSEDiff", (20, 999), {"network_g__t_add": 20}),
        ("HYPIR", (-1, 200), POSTERIOR),
    ],
)
def test_one_update(bases, tmp_path: Path, caplog, kind: str, t: tuple, changes: dict):
    """The LoRA moves, candidates differ, and what is saved says how the model runs."""
    options = {"train__total_iter": 1, "datasets__val__max_images": 1, **LR, **changes}
    model = build(bases[kind], tmp_path, network_g__prompt="", **options)
    config = model.generator.scheduler.config
    assert (config.t_add, config.t_diff) == t
    before = trained(model)
    assert model.fit()
    moved = [n for n, p in model.trained.items() if not torch.equal(p.detach(), before[n])]
    assert moved and all(".lora_" in name for name in moved)
    assert "all candidates of a group are equal" not in caplog.text
    pipe = OneStepSRPipeline.from_pretrained(bases[kind])
    pipe.load_lora_weights(tmp_path / "run")
    assert (pipe.scheduler.config.t_add, pipe.scheduler.config.t_diff) == t


@pytest.mark.parametrize("kind", ["HYPIR", "PiSA-SR", "PiSA-SR pixel"])
def test_a_lora_that_makes_the_model_is_merged_first(sd: Path, tmp_path: Path, kind: str):
    """The reference is the base without `pretrain_lora`: here it would not restore anything."""
    project, _, part = kind.partition(" ")
    file = tmp_path / f"{project}.pth"
    maker = {"HYPIR": other_models.HYPIR, "PiSA-SR": other_models.PiSASR}[project]
    maker(sd).save(file)
    assert convert([str(file), "-o", str(tmp_path / "lora"), "--base", str(sd)]) == 0
    lora, merged = tmp_path / "lora" / part, tmp_path / "m"
    with pytest.raises(CheckpointError, match=f"LoRA of {project}, which makes .*gdpo-sr merge"):
        build(sd, tmp_path / "a", path__pretrain_lora=lora, **POSTERIOR, **LR)
    with pytest.raises(CheckpointError, match=r"holds no LoRA.*gdpo-sr convert makes of a .pkl"):
        build(sd, tmp_path / "b", path__pretrain_lora=file, **POSTERIOR, **LR)
    assert merge(["--base", str(sd), "--lora", str(lora), "-o", str(merged)]) == 0
    model = build(merged, tmp_path / "c", **POSTERIOR, **LR)
    config = OneStepSRPipeline.from_pretrained(sd)
    config.load_lora_weights(lora)
    names = ("t_add", "t_diff", "prediction_type")
    expected = {name: config.scheduler.config[name] for name in names}
    assert {name: model.generator.scheduler.config[name] for name in names} == expected


def test_a_lora_of_another_family_is_refused_by_its_module(sd: Path, tmp_path: Path):
    """A UNet's LoRA for the embedded base's RRDB network, and the other way round."""
    bases = sd, base_folder("mini")
    for own, other in (bases, bases[::-1]):
        unet = load_components(other)["unet"].requires_grad_(False)
        add_lora(unet, 2)
        lora = save_lora(unet, tmp_path / other.name)
        with pytest.raises(CheckpointError, match=r"module '[a-z0-9_.]+'.*use the base that"):
            load_lora(load_components(own)["unet"], lora, trainable=True)


def test_equal_candidates_are_refused_or_told(base: Path, bases, tmp_path: Path):
    with pytest.raises(OptionError, match="candidates of a group would be equal; use network_g.t"):
        build(bases["OSEDiff"], tmp_path / "a", **LR)
    with pytest.raises(OptionError, match="train.target noise is nothing that it could predict"):
        candidate = {"train__update_input": "candidate", "train__target": "noise"}
        build(bases["OSEDiff"], tmp_path / "b", **POSTERIOR, **candidate)
    model = build(base, tmp_path / "c", network_g__t_add=-1, **POSTERIOR, **LR)
    batch = model.to_batch(next(model._batches()))
    [item] = model.prepare_update([batch])  # a lapped autoencoder's posterior has no spread
    logs = model.compute_loss(item).logs
    assert int(logs["equal_groups"]) == 1
    found = model.symptoms({name: float(value) for name, value in logs.items()})
    assert "posterior" in found["all candidates of a group are equal"]


def test_a_lora_in_diffusers_keys_to_start_from(base: Path, tmp_path: Path):
    """`path.pretrain_lora` takes diffusers' keys; the LoRA goes on from where it was."""
    unet = load_components(base)["unet"].requires_grad_(False)
    parameters = add_lora(unet, 2, 2)
    with torch.no_grad():
        for parameter in parameters:
            parameter.fill_(0.01)
    named = dict(unet.named_parameters())
    tensors = {
        f"unet.{name.replace('.default', '')}": p.detach().clone()
        for name, p in named.items()
        if ".lora_" in name
    }
    save_file(tensors, tmp_path / "start.safetensors")
    model = build(base, tmp_path, path__pretrain_lora=tmp_path / "start.safetensors")
    assert len(model.trained) == len(tensors)
    assert all((p == 0.01).all() and p.requires_grad for p in model.trained.values())
