"""What no source file may hold: unsafe calls, hosts of registries, paths of one machine."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    "gdpo_sr",
    "options",
    "docs",
    "datasets",
    "scripts",
    "research",
    "examples",
    "benchmarks",
    "tests",
    ".ci",
)
TEXT_SUFFIXES = {".py", ".md", ".yml", ".yaml", ".toml", ".json", ".txt", ".cfg", ".sh", ""}
MAX_TEXT_BYTES = 1_000_000  # longer files are data

# Written with a blank for the dot, so that this file does not hold what it looks for.
SPACED_HOSTS = ("pypi org", "pythonhosted org", "npmjs org", "deb debian org")
HOSTS = tuple(words.replace(" ", ".") for words in SPACED_HOSTS)
MACHINE_PATH = re.compile(r"(^|[^A-Za-z0-9_.])/(work|root|farm)/")


def source_files() -> list[Path]:
    """Text files that belong to the repository: its known folders and what lies in its root."""
    files = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    for folder in FOLDERS:
        files += (ROOT / folder).rglob("*")
    return sorted(path for path in files if is_source(path))


def is_source(path: Path) -> bool:
    return (
        path.is_file()
        and path.suffix in TEXT_SUFFIXES
        and "__pycache__" not in path.parts
        and path.stat().st_size <= MAX_TEXT_BYTES
    )


def keyword(node: ast.Call, name: str) -> ast.expr | None:
    return next((item.value for item in node.keywords if item.arg == name), None)


def unsafe_torch_load(node: ast.Call) -> bool:
    value = keyword(node, "weights_only")
    return not (isinstance(value, ast.Constant) and value.value is True)


def safe_loaders(tree: ast.AST) -> set[str]:
    """Names of yaml's safe loaders, and of the classes of this file that derive from them."""
    names = {"yaml.SafeLoader", "yaml.CSafeLoader", "SafeLoader", "CSafeLoader"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(
            ast.unparse(base) in names for base in node.bases
        ):
            names.add(node.name)
    return names


def unsafe_yaml(node: ast.Call, function: str, loaders: set[str]) -> bool:
    loader = keyword(node, "Loader")
    is_safe = loader is not None and ast.unparse(loader) in loaders
    return function in {"unsafe_load", "full_load"} or (function == "load" and not is_safe)


def unsafe_call(node: ast.Call, loaders: set[str]) -> str:
    """What is wrong with a call, or ""."""
    if isinstance(node.func, ast.Name):
        return f"{node.func.id}()" if node.func.id in {"eval", "exec"} else ""
    if not isinstance(node.func, ast.Attribute):
        return ""
    owner, function = ast.unparse(node.func.value), node.func.attr
    if function == "cuda" and owner != "torch":
        return ".cuda(): take the device as an argument"
    if (owner, function) == ("torch", "load") and unsafe_torch_load(node):
        return "torch.load without weights_only=True"
    if owner == "yaml" and unsafe_yaml(node, function, loaders):
        return f"yaml.{function} with a loader that is not safe"
    return ""


def unsafe_lines(source: str) -> list[str]:
    """Sentences with line numbers on every unsafe construct of a Python source."""
    found = []
    tree = ast.parse(source)
    loaders = safe_loaders(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"line {node.lineno}: bare except")
        elif isinstance(node, ast.Call) and (problem := unsafe_call(node, loaders)):
            found.append(f"line {node.lineno}: {problem}")
    return found


def foreign_text(text: str) -> list[str]:
    """Hosts of registries and paths of one machine in a text."""
    found = [host for host in HOSTS if host in text]
    return found + [match.group().strip() for match in MACHINE_PATH.finditer(text)]


FILES = source_files()
IDS = [str(path.relative_to(ROOT)) for path in FILES]


def test_the_search_finds_the_repository():
    assert {"setup.py", "Makefile", ".ci/run", "gdpo_sr/types.py"} <= set(IDS)


def test_no_unsafe_code():
    found = {
        name: lines
        for name, path in zip(IDS, FILES, strict=True)
        if path.suffix == ".py" and (lines := unsafe_lines(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_no_registry_host_and_no_machine_path():
    found = {
        name: words
        for name, path in zip(IDS, FILES, strict=True)
        if (words := foreign_text(path.read_text(encoding="utf-8", errors="replace")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "model.cuda()",
        "try:\n    pass\nexcept:\n    pass",
        "eval('1')",
        "exec('x = 1')",
        "torch.load('a')",
        "torch.load('a', weights_only=False)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "class SafeLooking(yaml.Loader):\n    pass\nyaml.load(text, Loader=SafeLooking)",
    ],
)
def test_the_code_rules_can_fail(source: str):
    assert len(unsafe_lines(source)) == 1


def test_the_text_rules_can_fail():
    assert foreign_text(f"pip install -i https://{HOSTS[0]}/simple") == [HOSTS[0]]
    assert foreign_text("read " + "/".join(["", "root", "data"])) == ["/".join(["", "root", ""])]


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "torch.load('a', weights_only=True)",
        "yaml.safe_load(text)",
        "yaml.load(text, Loader=yaml.CSafeLoader)",
        "class Mine(yaml.SafeLoader):\n    pass\nyaml.load(text, Loader=Mine)",
        "try:\n    pass\nexcept OSError:\n    pass",
    ],
)
def test_good_code_passes(source: str):
    assert unsafe_lines(source) == []
