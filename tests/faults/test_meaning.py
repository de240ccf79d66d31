"""What a run was trained with goes with its adapter: into inference, other runs, and on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gdpo_sr.checkpoints.lora import find_adapter
from gdpo_sr.checkpoints.meaning import read_meaning
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from tests.faults.runs import train

TRAINED = {"t_add": 400, "t_diff": 120, "prompt": "hello"}


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_it_is_kept_from_run_to_run(stage: str, base: Path, tmp_path: Path):
    """Trained with 400 and hello, continued by another run, stopped and gone on: still that."""
    first, run = tmp_path / "first", tmp_path / "run"
    options = {f"network_g__{name}": value for name, value in TRAINED.items()}
    assert train(stage, base, tmp_path, train__total_iter=1, **options) == 0
    shutil.move(run, first)
    assert train(stage, base, tmp_path, train__total_iter=1, path__pretrain_lora=first) == 0
    assert read_meaning(find_adapter(run)).settings() == TRAINED
    shutil.rmtree(first)
    assert train(stage, base, tmp_path, "--auto_resume", train__total_iter=2) == 0
    meaning = read_meaning(find_adapter(run))
    assert meaning.settings() == TRAINED and meaning.base == str(base)
    pipe = OneStepSRPipeline.from_pretrained(base)
    pipe.load_lora_weights(run)
    assert pipe.scheduler.config.t_add == 400 and pipe.config.prompt == "hello"
