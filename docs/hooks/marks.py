"""Marks in a page that stand for something of the package.

<!-- code: gdpo_sr/losses/gdpo_loss.py gdpo_loss -->    a function or class, without docstrings
<!-- table: resume rules -->                             what may change when a run goes on
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

from gdpo_sr.config.resume_rules import RULES

CODE = re.compile(r"^<!-- code: (\S+) (\S+) -->$", re.MULTILINE)
RULES_MARK = "<!-- table: resume rules -->"


def with_marks(text: str, root: Path) -> str:
    """The text with every mark replaced.

    Raises:
        LookupError, OSError: a mark names nothing.
    """

    def block(match: re.Match[str]) -> str:
        file, name = match.groups()
        lines = definition((root / file).read_text("utf-8"), name)
        return f'```python title="{file}"\n{lines}\n```'

    return CODE.sub(block, text).replace(RULES_MARK, resume_rules())


def resume_rules() -> str:
    """The rules of `gdpo_sr.config.resume_rules` as a table."""
    head = "| option | verdict | why |\n|---|---|---|\n"
    words = {"idle": "no effect"}
    rows = [f"| `{r.pattern}` | {words.get(r.verdict, r.verdict)} | {r.reason} |" for r in RULES]
    return head + "\n".join(rows)


def definition(source: str, name: str) -> str:
    """The lines of a function or class without its docstrings; "Class.method" is a method.

    Raises:
        LookupError: there is none of this name.
    """
    node = _find(ast.parse(source), name)
    lines = source.splitlines()
    left_out = {number for part in ast.walk(node) for number in _docstring_lines(part)}
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    kept = [
        lines[number - 1]
        for number in range(first, (node.end_lineno or first) + 1)
        if number not in left_out
    ]
    return re.sub(r"(:\n)\n+", r"\1", textwrap.dedent("\n".join(kept)))


def _find(node: ast.AST, name: str) -> ast.FunctionDef | ast.ClassDef:
    for part in name.split("."):
        named = [n for n in ast.iter_child_nodes(node) if isinstance(n, _DEFINITIONS)]
        found = [n for n in named if n.name == part]
        if not found:
            raise LookupError(f"no '{name}' in this file")
        node = found[0]
    assert isinstance(node, _DEFINITIONS)
    return node


_DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


def _docstring_lines(node: ast.AST) -> range:
    if not isinstance(node, _DEFINITIONS) or ast.get_docstring(node) is None:
        return range(0)
    text = node.body[0]
    return range(text.lineno, (text.end_lineno or text.lineno) + 1)
