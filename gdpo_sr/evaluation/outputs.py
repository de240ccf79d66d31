"""Where an evaluation is written, found out before its work."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from gdpo_sr.types import OptionError
from gdpo_sr.writer import output_folder

FILES = ("scores.json", "scores.csv", "table.md", "table.tex")
PAGE = "index.html"


def check_outputs(args: argparse.Namespace) -> None:
    """Find out whether --save_json, --save and --report can be written, and replace no input.

    Raises:
        OptionError: one of them cannot be written, or is an input, or a file of another kind.
    """
    inputs = {os.path.realpath(value.partition("=")[2] or value) for value in args.input}
    inputs |= {os.path.realpath(value) for value in args.input}
    if args.save_json is not None:
        _check_file("--save_json", Path(args.save_json), ".json", inputs)
    for option, names in (("save", FILES), ("report", (*FILES, PAGE))):
        text = getattr(args, option)
        if text is not None:
            folder = output_folder(text, f"--{option}")
            for name in names:
                _check_file(f"--{option}", folder / name, Path(name).suffix, inputs)


def _check_file(option: str, file: Path, suffix: str, inputs: set[str]) -> None:
    """A file, or a link to one, of this suffix; the writer follows links."""
    place = Path(os.path.realpath(file))
    if str(place) in inputs:
        raise OptionError(f"{option}: {file} is an input and would be replaced; name another")
    if place.suffix.lower() != suffix or place.is_dir():
        kind = "a folder" if place.is_dir() else f"no {suffix} file"
        raise OptionError(f"{option}: {file} is {kind}; name a new {suffix} file")
    output_folder(str(place.parent), option)
