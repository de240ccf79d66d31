"""The README's commands, .ci/run and the Makefile say the same, and name things that exist."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SET_UP_AND_MAIN_JOB = (
    "python -m venv .venv && . .venv/bin/activate && pip install -e . "
    "&& python train.py -opt options/gdpo_sr.yml"
)
SET_UP_AND_TESTS = 'pip install -e ".[dev]" && python -m pytest'


def lines_of(path: str) -> list[str]:
    return [line.strip() for line in (ROOT / path).read_text(encoding="utf-8").splitlines()]


def readme_commands() -> list[str]:
    """Lines of the README's ```bash blocks without comments; a trailing backslash joins two."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def single_commands() -> list[list[str]]:
    """Words of every command of the README, those joined by && taken apart."""
    parts = [part for line in readme_commands() for part in line.split("&&")]
    return [shlex.split(part, comments=True) for part in parts]


def test_readme_has_the_two_set_up_commands():
    commands = readme_commands()
    assert SET_UP_AND_MAIN_JOB in commands
    assert SET_UP_AND_TESTS in commands


def test_ci_runs_the_readme_commands_in_order():
    install, test = SET_UP_AND_TESTS.split(" && ")
    lines = lines_of(".ci/run")
    assert install in lines
    assert lines[-1] == test, "pytest comes last, so that its summary closes the output"
    assert lines.index(install) < lines.index("make lint types") < lines.index(test)


def test_ci_script_is_executable_and_strict():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "set -euo pipefail" in lines_of(".ci/run")


def test_make_check_is_what_ci_runs():
    targets = {
        line.split(":")[0]: line.split(":")[1].split("##")[0].split()
        for line in lines_of("Makefile")
        if re.match(r"^[a-z]+:", line)
    }
    assert targets["check"] == ["lint", "types", "test"]
    assert "make lint types" in lines_of(".ci/run")


def test_readme_scripts_and_option_files_exist():
    words = [word for command in single_commands() for word in command]
    named = [word for word in words if re.fullmatch(r"[\w./-]+\.(py|yml|yaml|sh)", word)]
    assert "train.py" in named and "options/gdpo_sr.yml" in named
    assert [word for word in named if not (ROOT / word).is_file()] == []


@pytest.mark.parametrize("name", ["train.py", "inference.py", "evaluate.py"])
def test_readme_shows_every_launcher(name: str):
    assert any(name in command for command in single_commands())
