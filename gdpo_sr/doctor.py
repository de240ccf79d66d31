"""`gdpo-sr doctor [-opt FILE] [--json]`: what is on this machine, and whether a run can start.

Exit status 1 if it cannot.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from gdpo_sr.types import OptionError

if TYPE_CHECKING:  # torch and all that stands on it load slowly; --help does without
    from gdpo_sr.checkup.finding import Finding
    from gdpo_sr.config.schema import Options


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line of `gdpo-sr doctor`."""
    parser = argparse.ArgumentParser(
        prog="gdpo-sr doctor",
        description="Say what there is on this machine, and whether a run can start.",
        allow_abbrev=False,
    )
    parser.add_argument("-opt", metavar="FILE", help="options file (YAML) of the run")
    parser.add_argument(
        "--force_yml", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as train"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a screen")
    return parser.parse_args(argv)


def examine(options: Options | None) -> Iterator[Finding]:
    """Everything there is to say, in the order of the screen."""
    from gdpo_sr.checkup import fits, machine, models, pictures

    yield machine.software()
    yield from machine.device(options)
    if options is None:
        yield machine.disk(Path.cwd(), None)
        yield models.licences(["mini"])
        return
    found, base = models.base(options)
    yield found
    yield from models.parts(options)
    yield from models.metrics(options)
    yield from pictures.data_folders(options)
    measured = None if base is None else fits.count(options, base)
    if measured is not None:
        yield fits.memory(measured)
    need = None if measured is None else fits.checkpoint_bytes(options, measured)
    yield machine.disk(Path(options.path.experiments_root), need)
    yield models.licences(models.mirrors(options.network_g.base)[:1])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parse_arguments(argv)
    from gdpo_sr.checkup.finding import Finding
    from gdpo_sr.config.load import load_options

    options, findings = None, []
    try:
        if arguments.opt is not None:
            options = load_options(arguments.opt, arguments.force_yml)
            findings = [Finding("options", "ok", str(arguments.opt))]
        findings += examine(options)
    except OptionError as error:
        findings = [Finding("options", "bad", line) for line in str(error).splitlines()]
    bad = [finding for finding in findings if finding.status == "bad"]
    if arguments.json:
        items = [asdict(finding) for finding in findings]
        print(json.dumps({"can_start": not bad, "findings": items}, indent=1, ensure_ascii=False))
    else:
        print("\n".join(finding.line() for finding in findings))
        if options is not None or bad:
            verdict = f"{len(bad)} things are in the way" if bad else "the run can start"
            print(f"\n{verdict}")
    return 1 if bad else 0
