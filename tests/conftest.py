"""Fixtures: where recorded numbers are, and one thread so that sums are reproducible."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdpo_sr.utils.lean_imports import without

with without("bitsandbytes"):  # where it is installed, diffusers and peft import it: four seconds
    from tests.tiny_base import tiny_base

TESTS = Path(__file__).parent
SHARED = TESTS.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with benchmark pairs and large recordings, which users of the repository do not
    have.
    """
    if not SHARED.is_dir():
        pytest.skip("needs the folder ../shared (recordings that are not part of the repository)")
    return SHARED


@pytest.fixture(scope="session")
def golden():
    """Path of a recorded file: `tests/golden` first, then `../shared/golden`, else skip."""

    def find(name: str) -> Path:
        for folder in (TESTS / "golden", SHARED / "golden"):
            if (folder / name).exists():
                return folder / name
        pytest.skip(
            f"needs ../shared/golden/{name} (a recording that is not part of the repository)"
        )

    return find


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base in diffusers layout; who changes it takes a copy."""
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def assert_close(record_property):
    """Compare with a recording to `atol`, and note the error."""

    def check(name: str, actual: torch.Tensor, recorded: torch.Tensor, atol: float) -> None:
        assert actual.shape == recorded.shape, name
        error = float((actual.detach() - recorded).abs().max())
        record_property(name, f"{error:.2e}")
        assert error < atol, f"{name}: {error:.2e}"

    return check


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order, whatever the machine."""
    torch.set_num_threads(1)
