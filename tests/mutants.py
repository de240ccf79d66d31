"""Do the tests see small changes of the step, the losses, the rewards and the schedule?

    python -m tests.mutants                         # all of them, some 30 minutes on one core
    python -m tests.mutants --sample 60 --seed 1    # so many, drawn at random
    python -m tests.mutants --only losses/grpo.py   # of files whose path ends so

Each change is made alone, in a copy of the repository: an operator, a comparison, a constant, a
pair of swapped arguments or names. Then the quick unit tests of that file run; a change that they
let pass is printed as alive. Those in `HARMLESS` change nothing that could be seen, for the reason
given.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
UNIT = "tests/unit"
GROUP = f"{UNIT}/group"
STEP = (f"{GROUP}/test_recorded_step.py", f"{GROUP}/test_step.py")
LOSSES, REWARDS = f"{UNIT}/losses", f"{UNIT}/rewards"
ALL_LOSSES = f"{LOSSES}/test_group_losses.py"
TARGETS = {
    "advantages.py": (f"{UNIT}/test_advantages.py",),
    "group/advantages.py": (f"{GROUP}/test_advantages.py", *STEP),
    "group/errors.py": (f"{GROUP}/test_errors.py", *STEP),
    "group/sample.py": (f"{GROUP}/test_sample.py", *STEP),
    "group/score.py": (f"{GROUP}/test_score.py", *STEP),
    "group/step.py": STEP,
    "losses/base.py": (ALL_LOSSES,),
    "losses/diffusion_dpo.py": (f"{LOSSES}/test_diffusion_dpo.py", ALL_LOSSES),
    "losses/gdpo_loss.py": (f"{LOSSES}/test_gdpo_loss.py", ALL_LOSSES),
    "losses/grpo.py": (f"{LOSSES}/test_grpo.py", ALL_LOSSES),
    "losses/multi_pair_dpo.py": (ALL_LOSSES,),
    "losses/preference.py": (ALL_LOSSES, f"{LOSSES}/test_gdpo_loss.py"),
    "losses/reward_weighted.py": (ALL_LOSSES,),
    "losses/sft_best.py": (ALL_LOSSES,),
    "losses/vsd_loss.py": (f"{LOSSES}/test_vsd_loss.py",),
    "rewards/base.py": (f"{REWARDS}/test_iqa_reward.py", f"{REWARDS}/test_registry.py"),
    "rewards/iqa_reward.py": (f"{REWARDS}/test_iqa_reward.py",),
    "rewards/scoring.py": (f"{REWARDS}/test_iqa_reward.py", f"{REWARDS}/test_registry.py"),
    "rewards/texture_share.py": (f"{REWARDS}/test_texture_share.py",),
    "rewards/patch_texture.py": (f"{REWARDS}/test_texture_share.py",),
    "rewards/user_reward.py": (f"{REWARDS}/test_registry.py",),
    "generators/diffusion_math.py": (f"{UNIT}/generators/test_diffusion_math.py",),
    "generators/one_step.py": (
        f"{UNIT}/generators/test_one_step.py",
        f"{UNIT}/generators/test_diffusion_math.py",
    ),
}
"""Files of `gdpo_sr/` and the tests that must see their changes, the quickest first."""
HARMLESS: dict[str, str] = {}
"""Changes that may live, as they are printed, each with its reason."""

OPERATORS = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"), ast.Pow: ("**", "*"), ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="),
    ast.And: ("and", "or"), ast.Or: ("or", "and"), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"), ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}  # fmt: skip
NAMES = (
    ("argmax", "argmin"), ("amax", "amin"), ("maximum", "minimum"), ("policy", "reference"),
    ("winner", "loser"), ("fidelity", "perception"), ("noise", "x0"), ("lr", "candidate"),
    ("mean", "sum"), ("fr", "nr"), ("posterior", "injected"), ("isfinite", "isnan"),
)  # fmt: skip
SWAPS = {**dict(NAMES), **{b: a for a, b in NAMES}}
SKIPPED_CALLS = {"Field", "MetricError", "OptionError", "ValueError", "TypeVar", "warning", "info"}


class Mutant(NamedTuple):
    """A change: `old` at `line` of `file` becomes `new`; `source` is the whole changed file."""

    file: str
    line: int
    old: str
    new: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}: {self.old} -> {self.new}"


def mutants_of(file: str) -> Iterator[Mutant]:
    """All changes of one file, in the order of its lines."""
    source = (ROOT / "gdpo_sr" / file).read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    starts = [sum(map(len, lines[:n])) for n in range(len(lines))]

    def span(node: ast.expr) -> tuple[int, int]:
        return (
            starts[node.lineno - 1] + node.col_offset,
            starts[node.end_lineno - 1] + node.end_col_offset,
        )

    for node in executed(ast.parse(source)):
        whole = span(node)
        for start, stop, text in changes(node, span, source):
            changed = source[:start] + text + source[stop:]
            new = changed[whole[0] : whole[1] + len(text) - (stop - start)]
            shown = [" ".join(part.split()) for part in (source[slice(*whole)], new)]
            yield Mutant(file, node.lineno, *shown, changed)


def executed(tree: ast.AST) -> Iterator[ast.expr]:
    """Expressions that are run: no docstrings, annotations, options' bounds or error messages."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            named = isinstance(child, ast.Call) and name_of(child.func) in SKIPPED_CALLS
            if not isinstance(child, ast.AST) or text or named:
                continue
            if isinstance(child, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
                continue
            if isinstance(child, ast.expr):
                yield child
            yield from executed(child)


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def changes(node: ast.expr, span, source: str) -> Iterator[tuple[int, int, str]]:
    """(start, stop, text) of each change of a node."""
    if isinstance(node, ast.BinOp | ast.Compare | ast.BoolOp):
        parts = {
            ast.BinOp: lambda: [node.left, node.right],
            ast.Compare: lambda: [node.left, *node.comparators],
            ast.BoolOp: lambda: node.values,
        }[type(node)]()
        operators = node.ops if isinstance(node, ast.Compare) else [node.op] * (len(parts) - 1)
        for left, right, operator in zip(parts, parts[1:], operators, strict=False):
            if type(operator) in OPERATORS:
                old, new = OPERATORS[type(operator)]
                at = source.index(old, span(left)[1], span(right)[0])
                yield at, at + len(old), new
    elif isinstance(node, ast.UnaryOp):
        yield span(node)[0], span(node.operand)[0], ""
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        new = not node.value if isinstance(node.value, bool) else node.value + 1
        yield *span(node), str(new)
    elif isinstance(node, ast.Constant) and node.value in SWAPS:
        yield *span(node), repr(SWAPS[node.value])
    elif isinstance(node, ast.Attribute) and node.attr in SWAPS:
        stop = span(node)[1]
        yield stop - len(node.attr), stop, SWAPS[node.attr]
    elif isinstance(node, ast.Call) and len(node.args) > 1:
        one, two = node.args[:2]
        first, second = (source[slice(*span(part))] for part in (one, two))
        if first != second and not any(isinstance(p, ast.Starred) for p in (one, two)):
            between = source[span(one)[1] : span(two)[0]]
            yield span(one)[0], span(two)[1], second + between + first


def is_seen(mutant: Mutant, copy: Path) -> bool:
    """Whether the tests of the file fail."""
    path = copy / "gdpo_sr" / mutant.file
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant.source, encoding="utf-8")
    passed = passes(TARGETS[mutant.file], copy)
    path.write_text(original, encoding="utf-8")
    return not passed


def passes(tests: tuple[str, ...], copy: Path) -> bool:
    """Whether tests pass in the copy, in a child of this process, which has the slow imports."""
    child = os.fork()
    if child == 0:
        signal.alarm(300)
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os._exit(run_tests(tests, copy))
    return os.waitpid(child, 0)[1] == 0


def run_tests(tests: tuple[str, ...], copy: Path) -> int:
    """Exit status of pytest in the copy."""
    import pytest

    os.chdir(copy)
    for name in [n for n in sys.modules if n.partition(".")[0] in ("tests", "gdpo_sr")]:
        del sys.modules[name]
    sys.path[:] = [str(copy), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


def preload() -> None:
    """What is slow to import and not of this repository."""
    sys.dont_write_bytecode = True
    import accelerate
    import diffusers
    import peft
    import pyiqa
    import torch
    import transformers

    assert all((accelerate, peft, pyiqa, transformers.CLIPTextModel))
    assert diffusers.UNet2DConditionModel
    torch.set_num_threads(1)


def main() -> int:
    """Print what lives; the status is 1 if more than one in twenty does without a reason."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, help="so many changes, drawn at random (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    parser.add_argument("--only", default="", help="files whose path ends so (all)")
    parser.add_argument("--list", action="store_true", help="print the changes and make none")
    args = parser.parse_args()
    chosen = [m for file in TARGETS if file.endswith(args.only) for m in mutants_of(file)]
    if args.sample is not None:
        chosen = random.Random(args.seed).sample(chosen, min(args.sample, len(chosen)))
    if args.list:
        print(*chosen, sep="\n")
        return 0
    preload()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns("__pycache__", ".*", "experiments", "results", "*.pyc")
        shutil.copytree(ROOT, copy, ignore=ignored)
        for tests in {TARGETS[m.file] for m in chosen}:
            if not passes(tests, copy):
                raise SystemExit(f"{' '.join(tests)}: fails without any change; mend it first")
        alive = []
        for mutant in chosen:
            if not is_seen(mutant, copy):
                alive.append(mutant)
                print(f"alive: line {mutant.line}: {mutant}", flush=True)
    unexplained = [m for m in alive if str(m) not in HARMLESS]
    share = 1 - len(unexplained) / max(len(chosen), 1)
    print(f"{len(chosen)} changes, {len(alive)} alive, of which {len(unexplained)} unexplained:")
    print(f"{100 * share:.1f} % seen or explained")
    return int(share < 0.95)


if __name__ == "__main__":
    raise SystemExit(main())
