"""The API reference: a page for each package, each module by mkdocstrings from its docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = "gdpo_sr"
INTRODUCTION = """# Python API

Written from the docstrings. Start with [pipelines](pipelines.md): `OneStepSRPipeline` restores
pictures. The stage-2 step is in [group](group.md); what guides it is in [losses](losses.md) and
[rewards](rewards.md).

Legend: B images, G candidates, C,H,W pixels, c,h,w latent. Images are RGB in 0 to 1, and in -1 to 1
inside the network only.

| page | what |
|---|---|
"""


def api_pages(root: Path) -> dict[str, str]:
    """Markdown by name of page: `index`, and one for every package below `gdpo_sr`.

    Args:
        root: of the repository.
    """
    folder = root / PACKAGE
    packages = sorted(p.parent for p in folder.glob("*/__init__.py"))
    pages = {p.name: _page(p, root) for p in packages}
    rows = [f"| [{p.name}]({p.name}.md) | {_summary(p / '__init__.py')} |" for p in packages]
    pages = {"index": INTRODUCTION + "\n".join(rows) + "\n", **pages}
    pages["modules"] = _modules(sorted(folder.glob("*.py")), root, "Modules of the package itself")
    return pages


def _page(package: Path, root: Path) -> str:
    title = f"{PACKAGE}.{package.name}"
    text = _summary(package / "__init__.py")
    return _modules(sorted(package.glob("*.py")), root, title, text)


def _modules(files: list[Path], root: Path, title: str, text: str = "") -> str:
    shown = [file for file in files if file.name != "__init__.py" and not _is_command(file)]
    names = [".".join(file.relative_to(root).with_suffix("").parts) for file in shown]
    return "\n".join([f"# {title}\n\n{text}\n", *(f"::: {name}\n" for name in names)])


def _is_command(file: Path) -> bool:
    return (
        file.parent.name == PACKAGE and "def main(" in file.read_text("utf-8")
    ) or file.stem == "version"


def _summary(file: Path) -> str:
    """First sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ")
