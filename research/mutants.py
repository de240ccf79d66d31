"""Change one operator, comparison, constant or name at a time, and see whether a test notices.

    python research/mutants.py --count 80 --minutes 30     # a sample of all files of the step
    python research/mutants.py gdpo_sr/losses/gdpo_loss.py # all changes of one file

The changed file lies in a copy of the repository, in a folder that is removed at the end. Tests are
those that TESTS names for the file; a change that none of them notices lives, and is printed. Known
ones that change nothing, or nothing that matters, stand in mutants.yml with the reason.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from gdpo_sr.config.yaml_file import read_yaml  # noqa: E402

GOLDEN = "tests/integration/test_golden_step.py"
STEP = ("tests/unit/group", "tests/unit/test_advantages.py", GOLDEN)
TESTS = {
    "gdpo_sr/advantages.py": STEP,
    "gdpo_sr/group": STEP,
    "gdpo_sr/losses": ("tests/unit/losses", *STEP),
    "gdpo_sr/rewards": ("tests/unit/rewards", *STEP),
    "gdpo_sr/generators/diffusion_math.py": ("tests/unit/generators", *STEP),
    "gdpo_sr/generators/one_step.py": ("tests/unit/generators", *STEP),
}
"""Files of the step, and the tests that are to notice their changes."""
COPIED = ("gdpo_sr", "tests", "options", "datasets", "examples", "pyproject.toml")
HEAVY = ("torch", "diffusers", "peft", "pyiqa", "scipy.stats", "pytest")
"""Imported once; every run of tests is a fork of the process that has them."""
SECONDS = 240
KNOWN = Path(__file__).with_name("mutants.yml")

OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Lt: ast.LtE,
    ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.USub: ast.UAdd, ast.Not: ast.UAdd,
}  # fmt: skip
PAIRS = (
    ("min", "max"), ("amin", "amax"), ("argmin", "argmax"), ("any", "all"), ("sum", "mean"),
    ("fidelity", "perception"), ("noise", "x0"), ("policy", "reference"),
)  # fmt: skip
NAMES = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}


@dataclass(frozen=True)
class Mutant:
    """A changed file: `before` became `after` in a line; `source` is all of it."""

    file: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before}  ->  {self.after}"


def changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    """Attributes of a node and other values for them."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.UnaryOp) and type(node.op) in OPERATORS:
        yield "op", OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        yield "ops", [OPERATORS[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "value", not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield "value", 1 - node.value if node.value in (0, 1) else node.value + 1
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        yield "value", 2 * node.value or 1.0
    elif isinstance(node, ast.Constant) and node.value in NAMES:
        yield "value", NAMES[node.value]
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield "attr", NAMES[node.attr]
    elif isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
        yield "id", NAMES[node.id]


def computing(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes of what is computed: no annotations, messages, texts or imports."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            skipped = isinstance(child, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom)
            if isinstance(child, ast.AST) and not skipped:
                yield from computing(child)


def mutants(file: str, source: str) -> list[Mutant]:
    """All single changes of a file, in the order of its syntax tree."""
    tree = ast.parse(source)
    lines = source.splitlines()
    found = []
    for node in computing(tree):
        for name, value in changes(node):
            before, kept = ast.unparse(node), getattr(node, name)
            setattr(node, name, value)
            changed, after = ast.unparse(tree), ast.unparse(node)
            setattr(node, name, kept)
            if before in (text := lines[node.lineno - 1].strip()):
                before, after = text, text.replace(before, after, 1)
            found.append(Mutant(file, node.lineno, before, after, changed))
    return found


def run_tests(folder: Path, tests: Sequence[str]) -> None:
    """In a process of its own: exit status 0 if all tests pass."""
    import pytest

    os.chdir(folder)
    sys.path[:] = [str(folder), *(path for path in sys.path if path != str(ROOT))]
    for name in [name for name in sys.modules if name.split(".")[0] in ("gdpo_sr", "tests")]:
        del sys.modules[name]
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    there = [test for test in tests if (folder / test).exists()]
    if not there:
        os._exit(0)  # nobody looks
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *there]))


def passes(folder: Path, tests: Sequence[str]) -> bool:
    """Whether all tests pass in time; one that runs for ever has noticed."""
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(folder, tests))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def lives(mutant: Mutant, folder: Path, tests: Sequence[str]) -> bool:
    """Whether no test in the copy notices; the copy is as before afterwards."""
    file = folder / mutant.file
    kept = file.read_bytes()
    file.write_text(mutant.source, encoding="utf-8")
    try:
        return passes(folder, tests)
    finally:
        file.write_bytes(kept)


def tests_for(file: str) -> tuple[str, ...]:
    """Tests that are to notice changes of a file; the narrowest entry counts."""
    found = [place for place in TESTS if file == place or file.startswith(f"{place}/")]
    return TESTS[max(found, key=len)] if found else STEP


def files_of(places: Sequence[str], root: Path) -> list[str]:
    """Python files of files and folders, relative to the root."""
    found: set[Path] = set()
    for place in (root / place for place in places):
        found.update([place] if place.is_file() else place.rglob("*.py"))
    return sorted(str(path.relative_to(root)) for path in found)


def copy_of(root: Path, folder: Path) -> Path:
    """What tests need, without caches; `../shared` is left behind, as in a clone."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, ignore=ignored)
        elif (root / name).is_file():
            shutil.copy(root / name, folder / name)
    return folder


def explained(mutant: Mutant, known: list[dict[str, str]]) -> str:
    """Why it may live, or ""."""
    return next(
        (
            entry["why"]
            for entry in known
            if (entry["file"], entry["after"]) == (mutant.file, mutant.after)
        ),
        "",
    )


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Print what lives; exit status 1 if anything does without a reason."""
    parser = argparse.ArgumentParser(description="Changes that no test notices.")
    parser.add_argument(
        "files", nargs="*", default=list(TESTS), help="files and folders (the step)"
    )
    parser.add_argument("--tests", nargs="+", help="instead of those of TESTS")
    parser.add_argument("--count", type=int, help="a random sample of so many (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--minutes", type=float, default=60, help="stop after so long")
    args = parser.parse_args(argv)
    for name in HEAVY:
        importlib.import_module(name)
    files = files_of(args.files, root)
    found = [m for file in files for m in mutants(file, (root / file).read_text(encoding="utf-8"))]
    if args.count and args.count < len(found):
        found = random.Random(args.seed).sample(found, args.count)
    known = read_yaml(KNOWN)["known"] if KNOWN.is_file() else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = copy_of(root, Path(temporary))
        return report(found, folder, args.tests, known, time.monotonic() + 60 * args.minutes)


def report(
    found: list[Mutant],
    folder: Path,
    tests: Sequence[str] | None,
    known: list[dict[str, str]],
    deadline: float,
) -> int:
    """Try each and print those that live."""
    tried = unexplained = alive = 0
    for mutant in found:
        if time.monotonic() > deadline:
            break
        tried += 1
        if lives(mutant, folder, tests or tests_for(mutant.file)):
            alive += 1
            why = explained(mutant, known)
            unexplained += not why
            print(f"lives: {mutant}{f'  ({why})' if why else ''}", flush=True)
    seen = tried - alive
    share = 100 * seen / max(tried, 1)
    print(f"{seen} of {tried} changes seen ({share:.0f} %), {unexplained} live without a reason;")
    print(f"{len(found) - tried} not tried for want of time")
    return int(unexplained > 0)


if __name__ == "__main__":
    sys.exit(main())
