"""What `benchmarks.long_run` makes of its samples, and that its runs are valid."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import long_run
from gdpo_sr.config.load import load_options


def made_up(growth: float) -> list[long_run.Row]:
    """A thousand updates; what is kept at the start does not count."""
    rows = []
    for update in range(0, 1001, 2):
        mib = 100 + min(update, 200) + growth * update / 1000
        rows.append({"stage": "a", "update": update, "mib": mib, "handles": 9})
    return rows


@pytest.mark.parametrize("growth", [0.0, 40.0])
def test_growth_after_the_start_is_found(growth: float):
    rows = long_run.thinned(made_up(growth), 10)
    assert len(rows) == 101 and rows[-1]["update"] == 1000
    assert long_run.slope(rows, "mib") == pytest.approx(growth, abs=1e-6)
    assert f"| {growth:+.2f} | 9 to 9 | +0.00 |" in long_run.table(rows)


def test_a_sample_of_this_process(tmp_path: Path):
    assert long_run._sample(os.getpid(), tmp_path) is None
    (tmp_path / "train.log").write_text("INFO: update 3 of 9: a\nINFO: update 4 of 9: a\n")
    row = long_run._sample(os.getpid(), tmp_path)
    assert row is not None and row["update"] == 4
    assert row["mib"] > 10 and row["handles"] > 0 and row["log_kib"] == 0


@pytest.mark.parametrize("stage", long_run.OPTIONS)
def test_its_runs_are_valid(stage: str, tmp_path: Path):
    words = long_run.command(stage, tmp_path, tmp_path, 2000)
    options = load_options(words[3], words[5:])
    assert options.train.total_iter == 2000 and options.logger.save_checkpoint_freq == 100
