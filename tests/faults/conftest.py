"""Undisturbed runs that several tests compare with; who changes one takes a copy."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from tests.faults.kills import UPDATES
from tests.faults.runs import one_block, outcome, train


@pytest.fixture(autouse=True)
def imported() -> None:
    """What has been imported so far is no garbage: every run collects what it leaves."""
    gc.freeze()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smaller than that of the other tests."""
    return one_block(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three updates, of which two states are kept."""
    root = tmp_path_factory.mktemp("finished")
    assert train("stage2", base, root) == 0
    return root / "run"


@pytest.fixture(scope="session")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is left of a run with UPDATES."""
    root = tmp_path_factory.mktemp("whole")
    assert train("stage2", base, root, **UPDATES) == 0
    return outcome(root / "run")
