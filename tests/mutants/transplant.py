"""A change outside functions, in a running program: the module is made again from its changed text,
and what it holds is put where the old one's is.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType

from tests.mutants.changes import ROOT, Mutant

PLAIN = (int, float, str, tuple, list, dict, set, frozenset, type(None))


class Changed(importlib.abc.InspectLoader):
    """Makes a module from another text than its file's."""

    def __init__(self, source: str) -> None:
        self.source = source

    def get_source(self, fullname: str) -> str:
        """The changed text."""
        return self.source


def transplant(mutant: Mutant) -> bool:
    """Constants of the module wherever they were imported, defaults of its functions, attributes
    of its classes; whether any differs.
    """
    found = False
    name = ".".join(["gdpo_sr", *mutant.file.removesuffix(".py").split("/")])
    old, new = sys.modules[name], made_again(name, mutant)
    for key, value in vars(new).items():
        before = getattr(old, key, None)
        if isinstance(value, type) and value.__module__ == name:
            found |= _into_class(before, value)
        elif isinstance(value, PLAIN) and not key.startswith("__") and value != before:
            for module in _ours():
                if vars(module).get(key) is before:
                    setattr(module, key, value)
                    found = True
        elif callable(value):
            found |= _defaults(before, value)
    return found


def made_again(name: str, mutant: Mutant) -> ModuleType:
    """The module, which registers nothing a second time."""
    from gdpo_sr.registry import Registry

    Registry.register = lambda self, name: lambda thing: thing
    loader = Changed(mutant.source)
    path = ROOT / "gdpo_sr" / mutant.file
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location(name, path, loader=loader)
    )
    loader.exec_module(module)
    return module


def _ours() -> Iterator[ModuleType]:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("gdpo_sr", "tests"):
            yield module


def _into_class(old: type, new: type) -> bool:
    found = False
    for key, value in vars(new).items():
        before = vars(old).get(key)
        if isinstance(value, PLAIN) and not key.startswith("__") and value != before:
            setattr(old, key, value)
            found = True
        elif callable(value) or isinstance(value, staticmethod | classmethod):
            found |= _defaults(before, value)
    return found


def _defaults(old: object, new: object) -> bool:
    """Also those that a decorator remembers as a signature."""
    closures = [getattr(function, "__closure__", None) or () for function in (old, new)]
    for own, other in zip(*closures, strict=False):
        if isinstance(other.cell_contents, inspect.Signature):
            own.cell_contents = other.cell_contents
    before, after = inspect.unwrap(old), inspect.unwrap(new)
    if not isinstance(before, FunctionType) or not isinstance(after, FunctionType):
        return False
    values = after.__defaults__, after.__kwdefaults__
    same = (before.__defaults__, before.__kwdefaults__) == values
    before.__defaults__, before.__kwdefaults__ = values
    return not same
