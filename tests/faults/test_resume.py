"""Going on: from which state, with which options, and what is left of the others."""

from __future__ import annotations

import copy
import itertools
import shutil
from functools import reduce
from pathlib import Path

import pytest
import torch

from gdpo_sr.config.resume_rules import RULES, changes_of, rule_of
from gdpo_sr.config.schema import STAGES
from gdpo_sr.trainer.state import StateFolder
from gdpo_sr.types import CheckpointError
from tests.faults.option_changes import change_options, kinds_of
from tests.faults.runs import FILES, log_of, outcome, times, train
from tests.integration.test_training import build


def states(run: Path) -> list[str]:
    return sorted(f.name for f in (run / "training_states").iterdir())


def copy_of(run: Path, root: Path) -> Path:
    return shutil.copytree(run, root / "run")


def test_states_of_an_abandoned_branch_are_set_aside(base: Path, tmp_path: Path):
    """Going on from 1 of 1, 2, 3: neither retention nor --auto_resume takes the old 2 and 3."""
    run = tmp_path / "run"
    assert train("stage2", base, tmp_path, logger__keep_checkpoints=3) == 0
    assert states(run) == ["0000001", "0000002", "0000003"]
    first = run / "training_states" / "0000001"
    changes = {"path__resume_state": first, "train__total_iter": 2, "logger__keep_checkpoints": 1}
    assert train("stage2", base, tmp_path, **changes) == 0
    kept, aside = [s for s in states(run) if s.isdigit()], [s for s in states(run) if "aside" in s]
    assert kept[-1] == "0000002" and "0000003" not in kept and len(aside) == 1
    moved = run / "training_states" / aside[0]
    assert sorted(f.name for f in moved.iterdir()) == ["0000002", "0000003"]
    assert sorted(f.name for f in (run / "models" / aside[0]).iterdir()) == [
        "lora_0000002",
        "lora_0000003",
    ]
    assert "states after 1 are now in" in log_of(run)


def test_every_kept_state_has_its_model(base: Path, tmp_path: Path):
    """The newest two, and the best validated one, whatever its age."""
    assert train("stage2", base, tmp_path, train__total_iter=5, val__val_freq=1) == 0
    kept = [int(s) for s in states(tmp_path / "run")]
    assert kept[-2:] == [4, 5] and len(kept) <= 3
    models = {f.name for f in (tmp_path / "run" / "models").iterdir()}
    assert models == {"lora_latest", *(f"lora_{i:07d}" for i in kept)}


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "foreign"])
def test_a_bad_newest_state_is_named_and_the_one_before_is_used(
    harm: str, base: Path, finished: Path, tmp_path: Path
):
    run = copy_of(finished, tmp_path)
    whole = outcome(run)
    file = run / "training_states" / "0000003" / "state.pt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if harm == "foreign":
        (file.parent / "SHA256SUMS").unlink()
        torch.save({"weights": torch.zeros(3)}, file)
    else:
        file.write_bytes({"flip": bytes(data), "cut": bytes(data[:99]), "empty": b""}[harm])
    assert train("stage2", base, tmp_path, "--auto_resume") == 0
    assert "0000003" in log_of(run) and "the one before is tried" in log_of(run)
    assert "training_states/0000002 at iteration 2" in log_of(run)
    found = outcome(run)
    assert {name: found[name] for name in whole} == whole
    assert any("set_aside" in name and "state.pt" in name for name in found)  # nothing is deleted


def test_no_good_state_is_an_error_and_writes_nothing(
    base: Path, finished: Path, tmp_path: Path, capsys
):
    for file in copy_of(finished, tmp_path).rglob("state.pt"):
        file.write_bytes(b"")
    before = {
        f: f.stat().st_mtime_ns for f in (tmp_path / "run").rglob("*") if "log" not in f.parts
    }
    assert train("stage2", base, tmp_path, "--auto_resume", train__total_iter=9) == 2
    assert "SHA-256" in capsys.readouterr().err.splitlines()[-1]
    after = times(tmp_path / "run")
    assert after == before


OTHERS: list[tuple[str, object]] = [
    *(("iteration", "1"), ("iteration", torch.zeros(2)), ("random", []), ("random", None)),
    *(("trained", [1]), ("trained", {"a": 1}), ("optimizer", {}), ("schedule.last_epoch", "x")),
    *(("skipped_updates", None), ("health", {"a": "bc"}), ("health", 3), ("draws", None)),
    *(("kept.best", []), ("kept.healthy", "x"), ("kept.gain", {}), ("extra", None)),
    *(("extra.meaning.prompt", 3), ("extra.scale.total", None), ("extra.scale.weight", "x")),
    *(("extra.alarms", []), ("extra.meaning", {"unknown": 1}), ("average", [torch.zeros(2)])),
]


def test_states_of_another_program_are_one_line(base: Path, tmp_path: Path):
    """Whole files, with sums that are right, whose parts are of another kind."""
    model = build(base, tmp_path)
    state = model._state()
    state["iteration"], state["draws"] = 1, model.draws_per_update
    for key, value in [("unknown", 1), *OTHERS]:
        shutil.rmtree(model.paths.training_states)
        changed = copy.deepcopy(state)
        *parents, last = key.split(".")
        reduce(dict.__getitem__, parents, changed)[last] = value
        model.states.save(1, changed)
        if key == "unknown":  # of a later version
            assert model.load_newest(auto=True)
            continue
        with pytest.raises(CheckpointError) as told:
            model.load_newest(auto=True)
        assert "\n" not in str(told.value), (key, value)


MOMENTS = [("exp_avg", torch.zeros(3)), ("exp_avg_sq", torch.zeros(())), ("step", torch.zeros(2))]


@pytest.mark.parametrize(("name", "value"), [*MOMENTS, ("exp_avg", 1), ("exp_avg", None)])
def test_moments_that_fit_no_parameter_are_one_line(
    name: str, value: object, base: Path, finished: Path, tmp_path: Path, capsys
):
    """Found: of a single parameter they were not looked at, and ended the next update."""
    folder = copy_of(finished, tmp_path) / "training_states" / "0000003"
    state = torch.load(folder / "state.pt", weights_only=True)
    state["optimizer"]["state"][1][name] = value
    StateFolder(folder.parent, tmp_path, "lora_latest", 2).save(3, state)
    assert train("stage2", base, tmp_path, "--auto_resume", train__total_iter=4) == 2
    assert "is no state of such a run" in capsys.readouterr().err.splitlines()[-1]


def test_folders_whose_names_are_no_numbers(base: Path, finished: Path, tmp_path: Path):
    """Found: for Python a superscript two is a digit."""
    run = copy_of(finished, tmp_path)
    for name in ("\u00b2", "\u0663", "-1", "1e3", "9" * 200):
        (run / "training_states" / name).mkdir()
    assert train("stage2", base, tmp_path, "--auto_resume", train__total_iter=4) == 0
    assert "0000003 at iteration 3" in log_of(run)


@pytest.mark.parametrize(
    "change",
    [
        {"train__loss": "{type: gdpo, omega: auto}"},
        {"train__loss": "{type: grpo}"},
        {"train__lora__rank": 2},
        {"train__lora__alpha": 2},
        {"datasets__train__batch_size": 2},
        {"train__accumulation": 2},
        {"network_g__t_add": 300},
        {"manual_seed": 5},
        {"train__control": "permuted_advantages"},
    ],
    ids=str,
)
def test_refused_changes_are_one_line_and_write_nothing(
    change: dict[str, object], base: Path, finished: Path, tmp_path: Path, capsys
):
    copy_of(finished, tmp_path)
    before = {
        f: f.stat().st_mtime_ns for f in (tmp_path / "run").rglob("*") if "log" not in f.parts
    }
    assert train("stage2", base, tmp_path, "--auto_resume", train__total_iter=4, **change) == 2
    [line] = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error:")]
    assert list(change)[0].replace("__", ".").split(".")[-1].split("_")[0] in line
    after = times(tmp_path / "run")
    assert after == before


def test_told_changes_take_effect(base: Path, tmp_path: Path):
    """Another learning rate is used, an average that was not kept starts at the weights."""
    build(base, tmp_path).save_checkpoint()
    changes = {"train__optim_g__lr": 3e-3, "train__optim_g__betas": "[0.5, 0.9]"}
    model = build(base, tmp_path, train__ema_decay=0.9, train__grad_clip=0.5, **changes)
    assert model.resume()
    [group] = model.weight_update.optimizer.param_groups
    assert (group["lr"], group["betas"]) == (3e-3, (0.5, 0.9))
    assert model.weight_update.learning_rate == 3e-3
    pairs = zip(model.weight_update.average.average, model.trained.values(), strict=True)
    assert all(torch.equal(average, parameter) for average, parameter in pairs)
    model.save_checkpoint()
    assert build(base, tmp_path).resume()  # and back to no average


def test_told_changes_are_named(base: Path, finished: Path, tmp_path: Path):
    copy_of(finished, tmp_path)
    changes = {"train__optim_g__lr": 3e-4, "path__pretrain_lora": tmp_path / "run"}
    assert train("stage2", base, tmp_path, "--auto_resume", train__total_iter=4, **changes) == 0
    text = log_of(tmp_path / "run")
    assert "from here on: train.optim_g.lr" in text and "-> 0.0003" in text
    assert "path.pretrain_lora has no effect" in text


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_has_a_rule(stage: str):
    """Of the schema, with those of sections that are off."""
    keys = kinds_of(stage)
    assert len(keys) > 150 and [key for key in keys if rule_of(key) is None] == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", FILES)
def test_every_option_changed_on_resume(stage: str, base: Path, tmp_path: Path):
    found = change_options(stage, base, tmp_path)
    assert not found.wrong and found.tried > 60


def test_rules_are_all_reached():
    """No rule stands behind one that takes all its options."""
    for earlier, later in itertools.combinations(RULES, 2):
        assert rule_of(later.pattern.replace("*", "x")) == later, (earlier, later)


def test_changes():
    old = {"train": {"total_iter": 1, "lora": {"rank": 4}, "loss": {"omega": 5}}, "scale": 4}
    new = {"train": {"total_iter": 2, "lora": {"rank": 8}, "loss": {"omega": 6}}, "scale": 4}
    found = {change.key: change.refused for change in changes_of(old, new)}
    assert found == {"train.lora.rank": True, "train.loss.omega": False}
    new["train"]["loss"]["omega"] = "auto"
    assert {c.key for c in changes_of(old, new) if c.refused} == {
        "train.lora.rank",
        "train.loss.omega",
    }


def test_sections_that_come_and_go():
    """A loss that is switched on, a reward more and a reward less."""
    vsd, psnr, ssim = {"weight": 1}, {"metric": "psnr"}, {"metric": "ssim"}
    old = {"losses": {"vsd": None}, "reward": {"fidelity": {"a": psnr}}}
    new = {"losses": {"vsd": vsd}, "reward": {"fidelity": {"b": ssim}}}
    found = {c.key: (c.old, c.new, c.refused) for c in changes_of({"train": old}, {"train": new})}
    assert found == {
        "train.losses.vsd": (None, vsd, True),
        "train.reward.fidelity.a": (psnr, None, False),
        "train.reward.fidelity.b": (None, ssim, False),
    }
