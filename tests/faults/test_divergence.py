"""A run that has gone wrong ends, with exit status 3 and what to try."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from gdpo_sr.config.run_options import DivergenceOptions
from gdpo_sr.stage2.gdpo_model import GDPOModel
from gdpo_sr.trainer.health import GRADIENT, LOSS, Health, causes_of
from gdpo_sr.types import DivergedError
from gdpo_sr.utils.logger import get_logger
from tests.faults.runs import log_of, train


def test_weights_that_are_not_numbers_end_the_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    """From the third update on; the state of the second is named, and kept."""
    compute = GDPOModel.compute_loss

    def broken(model: GDPOModel, item: object) -> object:
        output = compute(model, item)
        if model.iteration >= 2:
            output.loss = output.loss * torch.nan
        return output

    monkeypatch.setattr(GDPOModel, "compute_loss", broken)
    changes = {"train__total_iter": 20, "train__divergence": "{window: 6, limit: 4}"}
    assert train("stage2", base, tmp_path, logger__keep_checkpoints=1, **changes) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert "update 6" in last and "not finite in 4 of the last 6" in last
    assert "training_states/0000002" in last and "train.optim_g.lr" in last
    kept = sorted(f.name for f in (tmp_path / "run" / "training_states").iterdir())
    assert kept == ["0000002", "0000005"]
    assert (tmp_path / "run" / "models" / "lora_0000002").is_dir()
    assert log_of(tmp_path / "run").count("loss not finite") == 1  # told once, when it began


def test_a_reward_that_always_fails_ends_the_run(base: Path, tmp_path: Path, capsys):
    """ms_ssim needs pictures of 161 pixels."""
    reward = {"train__reward__fidelity": "{ms: {metric: ms_ssim}}"}
    assert train("stage2", base, tmp_path, train__total_iter=6, **reward) == 3
    assert "failed on every candidate in 3 of" in capsys.readouterr().err.splitlines()[-1]


def test_a_reward_that_ends_the_program_is_an_error(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(GDPOModel, "prepare_update", lambda *_: sys.exit(0))
    assert train("stage2", base, tmp_path) == 2
    assert "sys.exit(0)" in capsys.readouterr().err.splitlines()[-1]


def test_causes():
    logs = {"loss": float("nan"), "gradient_norm": 1.0, "fake_gradient_norm": float("inf")}
    assert set(causes_of(logs, True)) == {LOSS, GRADIENT}
    assert not causes_of({"loss": 1.0, "gradient_norm": 0.0}, True)
    assert causes_of({"loss": 1.0, "gradient_norm": 0.0}, False)


def test_old_trouble_is_forgotten():
    """Two of three end the run; one in four does not."""
    health = Health(DivergenceOptions(window=3, limit=2), 100, get_logger())
    for iteration in range(1, 20):
        health.note(iteration, {LOSS: "try"} if iteration % 4 == 0 else {})
        health.check(iteration, None)
        assert health.is_good(iteration) is (iteration < 4 or iteration % 4 == 3)
    health.note(20, {LOSS: "try"})
    health.note(21, {LOSS: "try"})
    with pytest.raises(DivergedError, match=r"update 21: loss not finite in 2 .* none was saved"):
        health.check(21, None)
    again = Health(DivergenceOptions(window=3, limit=2), 100, get_logger())
    again.load_state_dict(health.state_dict())
    with pytest.raises(DivergedError, match="states/7"):
        again.check(21, Path("states/7"))


@pytest.mark.parametrize(("total", "limit"), [(1, 1), (2, 2), (4, 3), (10, 5), (1000, 20)])
def test_short_runs_end_too(total: int, limit: int):
    assert Health(DivergenceOptions(), total, get_logger()).limit == limit


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. "), "num_workers"),
        (KeyboardInterrupt(), "stopped"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "train.gradient_checkpointing"),
        (MemoryError(), "memory ran out (of the machine)"),
    ],
    ids=["worker", "interrupt", "GPU's memory", "memory"],
)
def test_what_ends_a_run_from_outside_is_one_line(
    error: BaseException, words: str, base: Path, tmp_path: Path, monkeypatch, capsys
):
    def ends(*_: object) -> None:
        raise error

    monkeypatch.setattr(GDPOModel, "prepare_update", ends)
    assert train("stage2", base, tmp_path) == (130 if words == "stopped" else 2)
    assert words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "text",
    ["raise MemoryError", "raise ValueError('a\\nb')", "raise type('Own', (BaseException,), {})"],
)
def test_a_reward_that_always_raises_ends_the_run(text: str, base: Path, tmp_path: Path, capsys):
    """Found: a traceback in the first validation, and from a class that is no Exception."""
    file = tmp_path / f"raises_{abs(hash(text))}.py"
    file.write_text(f"def score(candidates, hr):\n    {text}\n")
    changes = {
        "train__reward__user_modules": f"[{file}]",
        "train__reward__fidelity": f"{{mine: {{reward: {file.stem}.score}}}}",
    }
    assert train("stage2", base, tmp_path, train__total_iter=6, **changes) == 3
    lines = capsys.readouterr().err.splitlines()
    assert "reward mine failed on every candidate in 3 of" in lines[-1]
    assert any("failed in a validation (" in line for line in lines)


def test_a_reward_that_ends_the_program_while_it_is_tried_out(base: Path, tmp_path: Path, capsys):
    """Found: before the first update, too, the run was a success then."""
    file = tmp_path / "exits_at_build.py"
    file.write_text("import sys\ndef score(candidates, hr):\n    sys.exit(0)\n")
    changes = {
        "train__reward__user_modules": f"[{file}]",
        "train__reward__fidelity": "{mine: {reward: exits_at_build.score}}",
        "train__loss": "{type: reward_gradient}",
    }
    assert train("stage2", base, tmp_path, **changes) == 2
    assert "ended the program (sys.exit(0))" in capsys.readouterr().err.splitlines()[-1]
