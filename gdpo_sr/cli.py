"""The console command `gdpo-sr`, and how every command ends: `gdpo-sr train -opt
options/gdpo_sr.yml`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import sys
from collections.abc import Callable, Sequence

from gdpo_sr.types import GDPOSRError
from gdpo_sr.utils.text import printable

COMMANDS = {
    "train": "train by GDPO (stage 2) or NAOSD (stage 1) as an options file says",
    "inference": "super-resolve a picture or a folder",
    "evaluate": "score results with image quality metrics",
    "merge": "merge a LoRA into its base: one model for inference or stage 2",
    "convert": "turn a released checkpoint into a LoRA folder or a complete model",
    "export": "write a trained model for diffusers, PEFT or the hub, with a model card",
    "demo": "open a web page to try models",
    "doctor": "say what is on this machine, and whether a run can start",
    "schema": "write the JSON schema of the options, for completion in editors",
}
_MODULES = {"schema": "config.schema_file", "demo": "demo.command"}
"""Where a command is not a module of its name."""


def run_main(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Exit status of ``main(argv)``; a mistake of the user becomes one line on standard error.

    Returns:
        What `main` returns, 2 after a GDPOSRError, 3 after a run that diverged, 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that it cannot show is no failure
            stream.reconfigure(errors="backslashreplace")
    try:
        return main(argv)
    except GDPOSRError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return error.exit_status
    except OSError as error:  # of the machine: a disk that is full or gone, a name too long
        place = "" if error.filename is None else f"{error.filename}: "
        print(printable(f"error: {place}{error.strerror or error}"), file=sys.stderr)
        return GDPOSRError.exit_status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``gdpo-sr COMMAND ...``; the module of a command is imported only when it is called."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments else ""
    if command in COMMANDS:
        module = importlib.import_module(f"gdpo_sr.{_MODULES.get(command, command)}")
        return run_main(module.main, arguments[1:])
    if command in ("-h", "--help"):
        print(_usage())
        return 0
    if command == "--version":
        print(f"gdpo-sr {_version()}")
        return 0
    problem = f"no such command '{command}'" if command else "no command given"
    print(f"error: {problem}; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


def _usage() -> str:
    lines = [f"  {name:<11}{text}" for name, text in COMMANDS.items()]
    head = "usage: gdpo-sr COMMAND ...\n\ncommands (gdpo-sr COMMAND --help for more):"
    return "\n".join([head, *lines, "", "options: --help, --version"])


def _version() -> str:
    try:
        return importlib.metadata.version("gdpo-sr")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
