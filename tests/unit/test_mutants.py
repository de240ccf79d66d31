"""The changes that `python -m tests.mutants` makes; it itself is not run here."""

from __future__ import annotations

import ast

from tests.mutants.changes import ROOT, mutants_of
from tests.mutants.harmless import HARMLESS
from tests.mutants.targets import TARGETS

PACKAGE = ROOT / "gdpo_sr"


def test_every_change_is_python_and_another_program():
    for file in ("losses/grpo.py", "advantages.py"):
        original = ast.dump(ast.parse((ROOT / "gdpo_sr" / file).read_text(encoding="utf-8")))
        changed = [ast.dump(ast.parse(mutant.source)) for mutant in mutants_of(file)]
        assert len(changed) > 20 and original not in changed
        assert len(set(changed)) == len(changed)


def test_every_file_of_the_step_the_losses_and_the_rewards_is_changed():
    for folder in ("group", "losses", "rewards"):
        for file in (PACKAGE / folder).glob("*.py"):
            name = file.relative_to(PACKAGE).as_posix()
            unchanged = file.stem == "__init__" or not any(mutants_of(name))
            assert unchanged or name in TARGETS, name


def test_what_is_said_to_be_harmless_is_still_a_change():
    """An entry whose line was rewritten is to be looked at again."""
    every = {str(mutant) for file in TARGETS for mutant in mutants_of(file)}
    assert set(HARMLESS) <= every
