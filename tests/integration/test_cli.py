"""Commands end with the right status and one clear line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gdpo_sr.cli import main, run_main
from gdpo_sr.types import DatasetError

ROOT = Path(__file__).parents[2]


def raising(error: BaseException):
    def command(argv):
        raise error

    return command


def test_status_is_passed_on():
    assert run_main(lambda argv: len(argv), ["a", "b", "c"]) == 3


def test_mistake_of_the_user_is_one_line(capsys):
    assert run_main(raising(DatasetError("no picture in x; put some there"))) == 2
    assert capsys.readouterr().err == "error: no picture in x; put some there\n"


def test_interrupt():
    assert run_main(raising(KeyboardInterrupt())) == 130


def test_what_the_machine_refuses_is_one_line(capsys):
    assert run_main(raising(OSError(36, "File name too long", "a\x1bb"))) == 2
    assert capsys.readouterr().err == "error: a\\x1bb: File name too long\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(raising(ZeroDivisionError()))


@pytest.mark.parametrize(
    "argv, status, text",
    [
        (["--help"], 0, "usage: gdpo-sr COMMAND"),
        (["-h"], 0, "evaluate"),
        (["--version"], 0, "gdpo-sr "),
        (["tain"], 2, "no such command 'tain'; choose one of train, inference, evaluate"),
        ([], 2, "no command given"),
    ],
)
def test_console_command(argv: list[str], status: int, text: str, capsys):
    assert main(argv) == status
    output = capsys.readouterr()
    assert text in output.out + output.err


def test_command_gets_its_arguments(tmp_path: Path, capsys):
    assert main(["evaluate", "-i", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: no such file or folder")


def test_commands_are_imported_late():
    """`--help` must not wait for torch-heavy modules such as diffusers and pyiqa."""
    code = (
        "import sys, gdpo_sr.cli as c; c.main(['--help']); "
        "print('pyiqa' in sys.modules, 'diffusers' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "False False"


def test_launcher(tmp_path: Path):
    command = [sys.executable, "evaluate.py", "-i", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"error: no picture in the folder {tmp_path}; put PNG, JPEG, WebP, ... files into it"
    ]
