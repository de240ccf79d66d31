"""No signature of the package has more than seven arguments, but for a list with reasons."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "gdpo_sr"
MOST = 7
LONGER = {
    "pipelines/one_step_sr.py OneStepSRPipeline.__call__": "the interface of diffusers' pipelines",
    "generators/latent_rrdb.py LatentRRDBNet.__init__": "the keys of a saved config",
    "losses/grpo.py grpo_loss": "called from outside by these names; inside, GRPOLoss has four",
    "data/paired_dataset.py PairedDataset.__init__": "two folders and the options of a dataset",
    "trainer/validation.py PairedValidation.__init__": "what is compared, by what, on what noise",
    "stage1/score_networks.py ScoreNetworks.__init__": "three parts of a base and its options",
}


def functions(tree: ast.AST, owner: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods by their name inside the file."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield owner + node.name, node
        name = f"{owner}{node.name}." if isinstance(node, ast.ClassDef) else owner
        yield from functions(node, name)


def arguments(node: ast.FunctionDef) -> int:
    """How many there are, without the object or class itself."""
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([a for a in given if a.arg not in ("self", "cls")])


def longer_ones(source: str) -> set[str]:
    return {name for name, node in functions(ast.parse(source)) if arguments(node) > MOST}


def test_no_signature_is_longer_than_seven_arguments():
    found = {
        f"{path.relative_to(PACKAGE).as_posix()} {name}"
        for path in PACKAGE.rglob("*.py")
        for name in longer_ones(path.read_text(encoding="utf-8"))
    }
    assert found == LONGER.keys()


def test_the_count_can_fail():
    eight = ", ".join("abcdefgh")
    source = f"class A:\n  def f(self, {eight}): ...\n  def g(self, {eight[3:]}): ..."
    assert longer_ones(source) == {"A.f"}
