"""Leaving out packages that others import only because they are installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# diffusers, transformers and peft import these where they find them, for models and quantizations
# that restoration does not use: two to three seconds, and a message of bitsandbytes about kernels.
UNUSED = ("bitsandbytes", "scipy", "torchvision")


def quiet_libraries() -> None:
    """diffusers and transformers tell of errors only, also where they are imported later."""
    for name in ("diffusers", "transformers"):
        if name in sys.modules:
            sys.modules[name].utils.logging.set_verbosity_error()
        else:
            os.environ.setdefault(f"{name.upper()}_VERBOSITY", "error")


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """Packages that are not imported yet seem not to be installed, for the time of the block."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
