"""The reference of the commands: what each one says when it is asked for help."""

from __future__ import annotations

import contextlib
import io
import os

from gdpo_sr.cli import COMMANDS, main

ONLY_TORCH = ("schema",)
"""Commands that cannot say their help where torch is not installed, as where a site is built."""
INTRODUCTION = """# Commands

What every command says for `--help`, written when this site was built. `python train.py`,
`python inference.py` and `python evaluate.py` in the repository are the same as `gdpo-sr train`,
`gdpo-sr inference` and `gdpo-sr evaluate` anywhere.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | done but for pictures or metrics that are named |
| 2 | a mistake that you can mend: one line says which |
| 3 | a training that went wrong too often and was ended, see [its page](../train/runs.md) |
| 130 | stopped by Ctrl-C or SIGTERM; a training is saved first |

`gdpo-sr schema [FILE]` writes the JSON schema of the options, `options/schema.json` if no file is
named.
"""


def commands_page() -> str:
    """Markdown: a heading and the help of every command."""
    shown = [name for name in COMMANDS if name not in ONLY_TORCH]
    parts = [f"## gdpo-sr {name}\n\n```text\n{help_of(name)}```\n" for name in shown]
    return "\n".join([INTRODUCTION, *parts])


def help_of(command: str) -> str:
    """The text, 100 columns wide."""
    text, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([command, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return text.getvalue()
