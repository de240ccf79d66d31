"""Curves and pictures of a run are complete while it is short, and small however long it is."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from gdpo_sr.config.load import load_options
from gdpo_sr.trainer import training_log
from gdpo_sr.trainer.report import Comparison, MetricComparison
from gdpo_sr.trainer.training_log import FULL_CURVE, TrainingLog, is_kept
from gdpo_sr.utils.logger import ScalarLog

OPTIONS = Path(__file__).resolve().parents[3] / "options" / "gdpo_sr.yml"
UPDATES = [*range(1, 11), *range(20, 101, 10), *range(200, 301, 100)]


class Recorder:
    def __init__(self) -> None:
        self.points: list[int] = []
        self.pictures: list[int] = []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        if tag == "train/loss":
            self.points.append(step)

    def add_image(self, tag: str, image: torch.Tensor, step: int) -> None:
        self.pictures.append(step)

    def close(self) -> None: ...


def log_of(total: int, val_freq: int) -> tuple[TrainingLog, Recorder]:
    options = load_options(OPTIONS, [f"train.total_iter={total}", f"val.val_freq={val_freq}"])
    log, seen = TrainingLog(options, logging.getLogger("test")), Recorder()
    log.scalars = ScalarLog(seen)
    return log, seen


def test_a_million_updates_give_thousands_of_points():
    kept = [i for i in range(1, 1_000_001) if is_kept(i, FULL_CURVE)]
    assert kept[:FULL_CURVE] == list(range(1, FULL_CURVE + 1))
    assert len(kept) == FULL_CURVE + 2 * FULL_CURVE * 9 // 10
    assert 1_000_000 in kept


def test_curves_get_sparser(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training_log, "FULL_CURVE", 10)
    log, seen = log_of(300, 0)
    for iteration in range(1, 301):
        log.update(iteration, {"loss": 1.0}, {}, tqdm(disable=True))
    assert seen.points == UPDATES


@pytest.mark.parametrize(
    ("total", "val_freq", "shown"),
    [
        (1234, 4, [0, *(4 * i for i in UPDATES), 1234]),  # 308 validations and the last one
        (30, 4, [*range(0, 30, 4), 30]),
        (30, 0, [0, 30]),
    ],
)
def test_pictures_of_validations(total: int, val_freq: int, shown: list[int]):
    log, seen = log_of(total, val_freq)
    picture = {name: torch.zeros(3, 4, 4) for name in ("lr", "base", "policy", "hr")}
    row = MetricComparison("psnr", False, True, [1.0], [2.0])
    steps = {0, total, *range(0, total, val_freq or total)}
    for step in sorted(steps):
        log.validation(Comparison(step, ["a"], [row]), [picture], "GDPO")
    assert seen.pictures == shown
