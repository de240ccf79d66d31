"""The import layers of the package and the purity of its pure files, read from the syntax trees.

Nothing is imported here, so the rules hold for imports inside functions too. A file may import
files of a lower layer and of its own; a new top-level module must be given a layer below, or the
first test names it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "gdpo_sr"

LOSSES = {
    f"gdpo_sr.losses.{path.stem}"
    for path in (ROOT / PACKAGE / "losses").glob("*.py")
    if path.stem not in ("__init__", "perceptual")  # that one builds a network
}
PURE = LOSSES | {
    "gdpo_sr.types",
    "gdpo_sr.advantages",
    "gdpo_sr.checkpoints.origins",
    "gdpo_sr.checkpoints.released_layout",
    "gdpo_sr.shared_random",
    "gdpo_sr.generators.diffusion_math",
    "gdpo_sr.generators.lapped_transform",
    "gdpo_sr.rewards.content_weights",
    "gdpo_sr.rewards.texture_share",
    "gdpo_sr.option_group",
    "gdpo_sr.registry",
    "gdpo_sr.rewards.patch_texture",
    "gdpo_sr.utils.color_fix",
    "gdpo_sr.utils.tiling",
    "gdpo_sr.utils.resample",
}
# Lowest first. A name stands for the module or for everything in the package of that name.
LAYERS = (
    {"version", "types", "registry", "writer", "option_group"},
    {name.removeprefix(f"{PACKAGE}.") for name in PURE},
    {"utils"},
    {"config", "generators", "data", "rewards", "metrics", "losses", "checkpoints"},
    {"group", "pipelines"},
    {"trainer"},
    {"stage1", "stage2", "restore", "evaluation", "publish", "checkup"},
    {"demo"},
    {"train", "inference", "evaluate", "merge", "convert", "export", "doctor", "cli", "__main__"},
)
TOP = len(LAYERS)  # the package's own __init__: the public surface, above everything
# What an installation does not have: nothing of the package may import it.
OUTSIDE = {"research", "ablation_study", "benchmarks", "scripts", "examples", "tests"}

PURE_IMPORTS = (
    "torch",
    "numpy",
    "math",
    "fractions",
    "difflib",
    "pydantic",
    "functools",
    "dataclasses",
    "typing",
    "collections.abc",
    "__future__",
)
RANDOM_FUNCTIONS = {
    f"torch.{name}"
    for name in (
        "rand randn randint randperm normal bernoulli multinomial poisson rand_like randn_like "
        "randint_like manual_seed seed"
    ).split()
}
RANDOM_METHODS = {"normal_", "uniform_", "bernoulli_", "random_", "exponential_"}
FILE_FUNCTIONS = {"open", "torch.load", "torch.save", "numpy.load", "numpy.save", "numpy.savez"}


def module_files() -> dict[str, Path]:
    """Every module of the package by dotted name; a package is named without its `__init__`."""
    modules = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


MODULES = module_files()


def parse(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imported_modules(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that a file imports; `from a import b` gives `a.b` if that is our module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                kept = len(parents) - node.level + (1 if is_package else 0)
                base = ".".join([*parents[:kept], *([base] if base else [])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in MODULES else base


def own_imports(module: str) -> set[str]:
    """Modules of gdpo_sr that `module` imports."""
    is_package = MODULES[module].name == "__init__.py"
    names = imported_modules(parse(module), module, is_package)
    return {name for name in names if name.split(".")[0] == PACKAGE} - {module}


def layer_of(module: str) -> int | None:
    """Position in LAYERS by the longest name that fits; TOP for the package, None if unknown."""
    if module == PACKAGE:
        return TOP
    parts = module.split(".")[1:]
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        for position, names in enumerate(LAYERS):
            if name in names:
                return position
    return None


def upward_imports(module: str, targets: set[str]) -> list[str]:
    """Sentences on imports of a higher layer."""
    own = layer_of(module)
    assert own is not None
    found = []
    for target in sorted(targets):
        layer = layer_of(target)
        if layer is None or layer > own:
            found.append(f"{module} (layer {own}) imports {target} (layer {layer})")
    return found


def group_of(module: str) -> str:
    """`gdpo_sr.rewards.base` -> `rewards`; a pure file is a group of its own."""
    return module if module in PURE else module.split(".")[1]


def find_cycle(edges: dict[str, set[str]]) -> list[str]:
    """One closed path through the graph, or an empty list."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(edges.get(node, ())):
            if cycle := visit(target, [*path, node]):
                return cycle
        done.add(node)
        return []

    return next((cycle for node in sorted(edges) if (cycle := visit(node, []))), [])


def aliases(tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted origin: `import numpy as np` gives np -> numpy."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                origin = alias.name if alias.asname else alias.name.split(".")[0]
                names[alias.asname or origin] = origin
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """`np.random.rand` -> `numpy.random.rand`; "" for what is not a plain dotted name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        base = dotted(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return ""


def impure_import(name: str) -> bool:
    if name.split(".")[0] == PACKAGE:
        return name not in PURE
    return not any(name == allowed or name.startswith(f"{allowed}.") for allowed in PURE_IMPORTS)


def impure_call(node: ast.Call, names: dict[str, str]) -> str:
    """What is wrong with a call in a pure file, or ""."""
    name = dotted(node.func, names)
    method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if name in FILE_FUNCTIONS:
        return f"{name} touches files"
    if name.startswith("numpy.random."):
        return f"{name} draws from a global random state"
    draws = name in RANDOM_FUNCTIONS or method in RANDOM_METHODS
    if draws and not any(keyword.arg == "generator" for keyword in node.keywords):
        return f"{name or method} draws without generator="
    return ""


def impurities(tree: ast.AST, module: str) -> list[str]:
    """Sentences on everything that a pure file may not do."""
    found = [
        f"{module} imports {name}"
        for name in imported_modules(tree, module, is_package=False)
        if impure_import(name)
    ]
    names = aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (problem := impure_call(node, names)):
            found.append(f"{module}:{node.lineno} {problem}")
    return found


def test_every_module_has_a_layer():
    missing = [module for module in MODULES if layer_of(module) is None]
    assert not missing, f"add these to LAYERS in {Path(__file__).name}: {missing}"


@pytest.mark.parametrize("module", [name for name in MODULES if layer_of(name) is not None])
def test_imports_go_downwards(module: str):
    assert upward_imports(module, own_imports(module)) == []


def test_every_import_of_our_own_exists():
    missing = [
        f"{module} imports {name}"
        for module in MODULES
        for name in own_imports(module)
        if name not in MODULES
    ]
    assert missing == []


def outside_imports(tree: ast.AST, module: str, is_package: bool) -> set[str]:
    """Imports of files that an installation does not have."""
    names = set(imported_modules(tree, module, is_package))
    return {name for name in names if name.split(".")[0] in OUTSIDE}


def test_nothing_imports_the_laboratory():
    found = {
        module: names
        for module, path in MODULES.items()
        if (names := outside_imports(parse(module), module, path.name == "__init__.py"))
    }
    assert found == {}


def test_the_laboratory_rule_can_fail():
    source = "def f():\n    from research.base import networks\n    import tests.tiny_base\n"
    names = outside_imports(ast.parse(source), "gdpo_sr.train", is_package=False)
    assert names == {"research.base", "tests.tiny_base"}


def test_no_cycles_between_packages():
    edges: dict[str, set[str]] = {}
    for module in MODULES:
        if module != PACKAGE:
            targets = {group_of(name) for name in own_imports(module) if name != PACKAGE}
            edges.setdefault(group_of(module), set()).update(targets - {group_of(module)})
    assert find_cycle(edges) == []


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_files_are_pure(module: str):
    assert module in MODULES, f"{module} is listed as pure and does not exist"
    assert impurities(parse(module), module) == []


def test_the_layer_rule_can_fail():
    source = "import gdpo_sr.trainer\ndef f():\n    from ..train import main\n"
    names = set(imported_modules(ast.parse(source), "gdpo_sr.rewards.base", is_package=False))
    assert names == {"gdpo_sr.trainer", "gdpo_sr.train"}
    assert len(upward_imports("gdpo_sr.rewards.base", names)) == 2
    assert upward_imports("gdpo_sr.stage2.gdpo_model", {"gdpo_sr.rewards.base"}) == []
    assert upward_imports("gdpo_sr.utils.color_fix", {"gdpo_sr.utils.image_io"}) != []


def test_the_cycle_rule_can_fail():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}}) == []


@pytest.mark.parametrize(
    "line",
    [
        "import cv2",
        "from gdpo_sr.utils import image_io",
        "import torch\nx = torch.randn(3)",
        "from torch import rand\nx = rand(3)",
        "import torch\nx = torch.empty(3).normal_()",
        "import numpy as np\nx = np.random.rand(3)",
        "x = open('a').read()",
        "import torch\nx = torch.load('a', weights_only=True)",
    ],
)
def test_the_purity_rule_can_fail(line: str):
    assert len(impurities(ast.parse(line), "gdpo_sr.advantages")) == 1


def test_the_purity_rule_lets_a_generator_pass():
    source = "import math\nimport torch\nx = torch.randn(3, generator=torch.Generator())"
    assert impurities(ast.parse(source), "gdpo_sr.advantages") == []
