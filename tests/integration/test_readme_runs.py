"""Every python command of the README is run, shortened, in the order in which a reader would."""

from __future__ import annotations

import json
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from tests.integration.test_readme import ROOT, single_commands

SHORTER = (
    "num_threads=1 train:total_iter=1 datasets:val:max_images=1 datasets:train:num_workers=0 "
    "val:val_freq=0 val:metrics={} logger:show_progress=false"
)
SHORTER_STAGE_2 = "train:group_size=2 train:reward:perception={}"


def python_commands() -> list[list[str]]:
    """Arguments behind `python`, in the README's order."""
    words = [command[1:] for command in single_commands() if command[0] == "python"]
    return [command for command in words if command[0].endswith(".py")]


def shortened(command: list[str]) -> list[str]:
    """A training of one update; other commands as they are."""
    if command[0] != "train.py":
        return command
    stage_2 = [] if any("naosd" in word for word in command) else shlex.split(SHORTER_STAGE_2)
    return [*command, "--force_yml", *shlex.split(SHORTER), *stage_2]


def run_launcher(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(arguments[0], run_name="__main__")
    return int(stopped.value.code or 0)


def test_the_readme_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("train.py", "inference.py", "evaluate.py", "options", "datasets", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    commands = python_commands()
    assert {c[0] for c in commands} >= {"train.py", "inference.py", "evaluate.py"}
    for command in commands:
        assert run_launcher(shortened(command), monkeypatch) == 0, command
    assert (tmp_path / "results" / "report" / "index.html").is_file()
    figures = json.loads((tmp_path / "results" / "gdpo.json").read_text())
    assert figures
    assert len(list((tmp_path / "results" / "gdpo").glob("*.png"))) == 8
