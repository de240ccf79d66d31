"""The only door to basicsr.

basicsr 1.4.2 imports `torchvision.transforms.functional_tensor`, a module that torchvision removed;
the functions that it
needs live on in `torchvision.transforms.functional`. The old name is mapped to the new module
before basicsr is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_REMOVED = "torchvision.transforms.functional_tensor"


def load(name: str) -> ModuleType:
    """Import the basicsr module `name`, for example ``basicsr.data.degradations``."""
    if _REMOVED not in sys.modules:
        sys.modules[_REMOVED] = importlib.import_module("torchvision.transforms.functional")
    return importlib.import_module(name)


def package_folder() -> Path:
    """Folder of the installed basicsr package, without importing it."""
    spec = importlib.util.find_spec("basicsr")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("basicsr is not installed: run 'pip install -e .' in the repository")
    return Path(next(iter(spec.submodule_search_locations)))
