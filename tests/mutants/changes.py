"""Small changes of a source file: an operator, a comparison, a constant, a name, two arguments."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"), ast.Pow: ("**", "*"), ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="),
    ast.And: ("and", "or"), ast.Or: ("or", "and"), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"), ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}  # fmt: skip
UNARY = {ast.Not: "not ", ast.USub: "-", ast.UAdd: "+", ast.Invert: "~"}
NAMES = (
    ("argmax", "argmin"), ("amax", "amin"), ("maximum", "minimum"), ("policy", "reference"),
    ("winner", "loser"), ("fidelity", "perception"), ("noise", "x0"), ("lr", "candidate"),
    ("mean", "sum"), ("fr", "nr"), ("posterior", "injected"), ("isfinite", "isnan"),
)  # fmt: skip
SWAPS = {**dict(NAMES), **{b: a for a, b in NAMES}}
SYMMETRIC = {"maximum", "minimum", "max", "min", "hypot", "mse_loss"}
"""Calls whose first two arguments may be swapped."""
SKIPPED_CALLS = {"Field", "MetricError", "OptionError", "ValueError", "TypeVar", "warning", "info"}


class Mutant(NamedTuple):
    """A change: `old` at `line` of `file`, which reads `text`, becomes `new`; `source` is the whole
    changed file.
    """

    file: str
    line: int
    text: str
    old: str
    new: str
    source: str

    def __str__(self) -> str:
        """Holds no number of a line, which other changes would shift."""
        return f"{self.file}: {self.text} | {self.old} -> {self.new}"


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
            text = lines[node.lineno - 1].strip()
            yield Mutant(file, node.lineno, text, *shown, changed)


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
        start = span(node)[0]
        yield start, start + len(UNARY[type(node.op)]), ""
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        new = not node.value if isinstance(node.value, bool) else node.value + 1
        yield *span(node), str(new)
    elif isinstance(node, ast.Constant) and node.value in SWAPS:
        yield *span(node), repr(SWAPS[node.value])
    elif isinstance(node, ast.Attribute) and node.attr in SWAPS:
        stop = span(node)[1]
        yield stop - len(node.attr), stop, SWAPS[node.attr]
    elif isinstance(node, ast.Call) and len(node.args) > 1 and name_of(node.func) not in SYMMETRIC:
        one, two = node.args[:2]
        first, second = (source[slice(*span(part))] for part in (one, two))
        if first != second and not any(isinstance(p, ast.Starred) for p in (one, two)):
            between = source[span(one)[1] : span(two)[0]]
            yield span(one)[0], span(two)[1], second + between + first
