"""`gdpo-sr doctor`: one screen, and exit status 1 if the run cannot start."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from gdpo_sr.checkup import fits, machine, models
from gdpo_sr.cli import main as gdpo_sr
from gdpo_sr.doctor import main
from gdpo_sr.generators.load import load_components
from gdpo_sr.trainer.memory_count import Networks, sampling, stage1_update, stage2_update
from tests.integration.test_training import OPTIONS_FILE, overrides

Usage = namedtuple("Usage", "total used free")


def arguments(base: Path, root: Path, **changes: object) -> list[str]:
    return ["-opt", str(OPTIONS_FILE), "--force_yml", *overrides(base, root, **changes)]


def findings(capsys, base: Path, root: Path, **changes: object) -> dict[str, dict]:
    """Of the JSON form, by name; the exit status must agree with them."""
    status = main([*arguments(base, root, **changes), "--json"])
    printed = json.loads(capsys.readouterr().out)
    found = {item["name"]: item for item in printed["findings"]}
    bad = [item for item in found.values() if item["status"] == "bad"]
    assert status == (1 if bad else 0) and printed["can_start"] is not bool(bad)
    return found


def test_a_run_that_can_start(base: Path, tmp_path: Path, capsys):
    assert gdpo_sr(["doctor", *arguments(base, tmp_path)]) == 0
    screen = capsys.readouterr().out
    lines = screen.splitlines()
    assert lines[-1] == "the run can start" and len(lines) < 24
    assert str(base) in screen and "pyiqa" in screen and "NON-COMMERCIAL" in screen
    for word in ("software", "device", "base", "metrics", "data train", "memory", "disk"):
        assert any(line[5:].startswith(word) for line in lines), word


def test_what_stands_in_the_way(base: Path, tmp_path: Path, capsys, monkeypatch):
    """All of it is told at once."""
    monkeypatch.setattr(models, "hub_answers", lambda: False)
    monkeypatch.setattr(fits, "device_memory", lambda: 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2, 1, 1))
    broken = shutil.copytree(base, tmp_path / "broken")
    (broken / "text_encoder" / "model.safetensors").unlink()
    found = findings(
        capsys,
        base,
        tmp_path,
        datasets__train__dataroot_gt=tmp_path / "nowhere",
        datasets__val__gt_size=4096,
        path__pretrain_lora=tmp_path / "none",
        val__metrics="{musiq: {metric: musiq}}",
    )
    expected = {
        "data train": "no such folder",
        "data val": "4096 px or more: add larger ones",
        "pretrain_lora": "holds no LoRA",
        "validation musiq": "musiq_koniq_ckpt",
        "memory": "use train.group_chunk: 1",
        "disk": "two checkpoints take",
    }
    for name, words in expected.items():
        assert found[name]["status"] == "bad" and words in found[name]["text"], found[name]


@pytest.mark.parametrize("online, status", [(True, "note"), (False, "bad")])
def test_a_base_that_is_not_here(base: Path, tmp_path: Path, capsys, monkeypatch, online, status):
    monkeypatch.setattr(models, "hub_answers", lambda: online)
    found = findings(capsys, "nobody/nothing", tmp_path)
    assert found["base"]["status"] == status and "memory" not in found


def test_wrong_options(tmp_path: Path, capsys):
    file = tmp_path / "o.yml"
    file.write_text("name: x\nfoo: 1\n")
    assert main(["-opt", str(file)]) == 1
    assert "bad  options" in capsys.readouterr().out


def test_without_options(capsys):
    assert main([]) == 0
    assert "licences" in capsys.readouterr().out


def test_precision_without_a_gpu(monkeypatch):
    monkeypatch.setattr(machine, "device_memory", lambda: None)
    assert [finding.name for finding in machine.device(None)] == ["device"]


# Counted memory ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counted(base: Path) -> Networks:
    configs = [json.loads((base / part / "config.json").read_text()) for part in ("unet", "vae")]
    return Networks(*configs, pixels=64, rank=2, precision="no")


def test_weights_are_those_of_the_networks(counted: Networks, base: Path):
    parts = load_components(base)
    plain = sum(p.nbytes for part in ("unet", "vae") for p in parts[part].parameters())
    update = stage2_update(counted, 1)
    assert 0 < update.weights - plain - update.trained < 0.2 * plain  # buffers, inputs


def test_more_at_once_needs_more(counted: Networks):
    one, six = (stage2_update(counted, count) for count in (1, 6))
    assert 4 * one.activations < six.activations < 7 * one.activations
    assert six.peak > six.weights + six.activations
    first = stage1_update(counted, 1)
    assert first.activations > one.activations and first.trained > 0
    assert sampling(counted, 6).peak < six.peak
