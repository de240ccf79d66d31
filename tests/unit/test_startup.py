"""Commands answer --help without torch, and offer what the slow modules have."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gdpo_sr import evaluate, inference
from gdpo_sr.metrics import PROTOCOLS
from gdpo_sr.restore import command
from gdpo_sr.utils.color_fix import COLOR_FIXES

SCRIPT = """
import sys
from gdpo_sr.cli import run_main
from gdpo_sr.{name} import main
try:
    run_main(main, {arguments})
except SystemExit:
    pass
slow = sorted({{"torch", "diffusers", "transformers", "peft", "cv2", "pyiqa"}} & set(sys.modules))
assert not slow, slow
"""


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("train", ["--help"]),
        ("inference", ["--help"]),
        ("evaluate", ["--help"]),
    ],
)
def test_quick_answers_import_nothing_slow(name: str, arguments: list[str], pytestconfig):
    script = SCRIPT.format(name=name, arguments=arguments)
    subprocess.run([sys.executable, "-c", script], check=True, cwd=pytestconfig.rootpath)


def test_a_dry_run_imports_no_networks(pytestconfig):
    """Options are checked with the losses, which need torch and nothing else."""
    arguments = ["-opt", "options/gdpo_sr.yml", "--dry_run"]
    script = SCRIPT.format(name="train", arguments=arguments).replace('"torch", ', "")
    subprocess.run([sys.executable, "-c", script], check=True, cwd=pytestconfig.rootpath)


def test_choices_are_those_of_the_modules():
    assert inference.COLOR_FIXES == tuple(COLOR_FIXES)
    assert inference.PRECISIONS == tuple(command.PRECISIONS)
    assert evaluate.PROTOCOLS == tuple(PROTOCOLS)
