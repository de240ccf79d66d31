"""Damaged states, JSON and hostile files; the long form: -m slow, counts: tests.faults.count."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdpo_sr.checkpoints import adapter_config
from tests.faults.damage import KINDS, damaged
from tests.faults.hostile import attack
from tests.faults.json_mutations import spoil_adapters, spoil_bases, write_adapters
from tests.faults.picture_mutations import check_whole, spoil_pictures


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_adapters(base, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch):
    """Patterns that never end are waited for in vain."""
    monkeypatch.setattr(adapter_config, "_PATIENCE", 0.4)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_states(kind: str, finished: Path, tmp_path: Path):
    assert not damaged(finished, tmp_path / "place", kind, 5).wrong


def test_mutated_bases(base: Path, tmp_path: Path):
    assert not spoil_bases(base, tmp_path / "place", range(20)).wrong


def test_mutated_adapters(base: Path, adapters: list[Path], tmp_path: Path):
    assert not spoil_adapters(base, adapters, tmp_path / "place", range(10)).wrong


def test_mutated_pictures(tmp_path: Path):
    """Found by seed 60: a TIFF whose header gives no width was said to be of 0 pixels; by 3045: one
    that gives two heights, of a size that is no number.
    """
    check_whole(tmp_path)
    assert not spoil_pictures(tmp_path, range(3045, 3046)).wrong
    found = spoil_pictures(tmp_path, range(200))
    assert not found.wrong and 50 < found.refused < 190


def test_hostile_files(base: Path, adapters: list[Path], tmp_path: Path):
    assert not attack(base, adapters[-1], tmp_path).wrong


@pytest.mark.slow
def test_many_damaged_states(finished: Path, tmp_path: Path):
    assert [
        wrong for kind in KINDS for wrong in damaged(finished, tmp_path / kind, kind, 300).wrong
    ] == []


@pytest.mark.slow
def test_many_mutations(base: Path, adapters: list[Path], tmp_path: Path):
    assert not spoil_bases(base, tmp_path / "base", range(1000, 1500)).wrong
    assert not spoil_adapters(base, adapters, tmp_path / "lora", range(1000, 1500)).wrong
    assert not spoil_pictures(tmp_path, range(1000, 6000)).wrong
