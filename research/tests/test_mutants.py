"""Changes of a source, and whether tests notice them."""

from __future__ import annotations

import ast
from pathlib import Path

import mutants
import pytest

SOURCE = '''"""A module of 3 lines."""
def f(x: int = 2, *, kind: "noise" = "x0") -> bool:
    if x > 1:
        raise ValueError(f"{x + 1} is more than {1}")
    return max(x, 0) + 0.5
'''
CALC = "def double(x):\n    return x + x\n\n\ndef unused(x):\n    return x * 2\n"
TEST = "from calc import double\n\n\ndef test_double():\n    assert double(3) == 6\n"


def test_what_is_changed_and_what_is_not():
    """Not the annotation, the message or the docstring."""
    found = mutants.mutants("a.py", SOURCE)
    for mutant in found:
        ast.parse(mutant.source)
    words = sorted((m.line, m.after) for m in found)
    assert words == sorted([
        (2, 'def f(x: int = 3, *, kind: "noise" = "x0") -> bool:'),
        (2, "'noise'"),  # quoted otherwise in the file: the constant alone
        (3, "if x >= 1:"),
        (3, "if x > 0:"),
        (5, "return max(x, 0) - 0.5"),
        (5, "return min(x, 0) + 0.5"),
        (5, "return max(x, 1) + 0.5"),
        (5, "return max(x, 0) + 1.0"),
    ])  # fmt: skip
    assert len({m.source for m in found}) == len(found)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "calc.py").write_text(CALC)
    (tmp_path / "test_calc.py").write_text(TEST)
    return tmp_path


def test_a_tested_line_is_seen_and_an_untested_one_lives(repository: Path, capsys):
    found = mutants.mutants("calc.py", CALC)
    known = [{"file": "calc.py", "after": "return x * 3", "why": "nobody calls it"}]
    status = mutants.report(found, repository, ["test_calc.py"], known, float("inf"))
    printed = capsys.readouterr().out
    assert status == 1
    assert "calc.py:2" not in printed and "1 of 3 changes seen (33 %), 1 live" in printed
    assert "calc.py:6: return x * 2  ->  return x / 2" in printed
    assert "return x * 3  (nobody calls it)" in printed
    assert (repository / "calc.py").read_text() == CALC


def test_an_endless_run_has_noticed(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mutants, "SECONDS", 1)
    (repository / "test_calc.py").write_text("def test():\n    while True:\n        pass\n")
    assert not mutants.passes(repository, ["test_calc.py"])


def test_every_file_of_the_step_is_there():
    for place in mutants.TESTS:
        assert mutants.files_of([place], mutants.ROOT)
    assert mutants.tests_for("gdpo_sr/losses/grpo.py")[0] == "tests/unit/losses"
