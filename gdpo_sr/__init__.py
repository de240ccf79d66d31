"""One-step diffusion super-resolution tuned by Group Direct Preference Optimization."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from gdpo_sr.version import __version__

if TYPE_CHECKING:
    from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline

__all__ = ["OneStepSRPipeline", "__version__"]

# bitsandbytes, which peft imports where it is installed, tells of a kernel that nobody here uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "gemm_4bit_forward" not in str(record.msg)
)

_LAZY = {"OneStepSRPipeline": "gdpo_sr.pipelines.one_step_sr"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562): torch and diffusers load slowly."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
