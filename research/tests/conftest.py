"""The laboratory's scripts as modules, and the fixtures of the default tests that they share."""

from __future__ import annotations

import sys
from pathlib import Path

RESEARCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(RESEARCH.parent), str(RESEARCH), str(RESEARCH / "base")]

from tests.conftest import base, one_thread, shared_dir  # noqa: E402

__all__ = ["base", "one_thread", "shared_dir"]
