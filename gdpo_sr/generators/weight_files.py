"""Which files of a part's folder hold its weights, and how diffusers and transformers are to read
them: plain safetensors first, then those of a variant such as fp16, then pickled tensors (.bin),
which torch reads with `weights_only`, so that no code in them runs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gdpo_sr.types import CheckpointError

_PART = r"(-\d+-of-\d+)?"
_NAME = re.compile(
    r"(diffusion_pytorch_model|pytorch_model|model)"
    rf"{_PART}(\.(?P<variant>[A-Za-z]\w*))?{_PART}\.(?P<kind>safetensors|bin)"
)
_PREFERRED = ("fp16", "ema")
"""Variants, the first that is there; others, such as non_ema, come after these by name."""


def has_weights(folder: Path) -> bool:
    """Whether a file in `folder` can hold weights."""
    return bool(_found(folder))


def reading(folder: Path) -> dict[str, Any]:
    """Arguments `use_safetensors` and `variant` of `from_pretrained` for the best files there.

    Raises:
        CheckpointError: there is none.
    """
    found = _found(folder)
    if not found:
        raise CheckpointError(
            f"'{folder}' holds no weights (*.safetensors, *.fp16.safetensors or *.bin): copy them "
            "there, or give a complete model"
        )
    kind, variant = min(found, key=_rank)
    return {"use_safetensors": kind == "safetensors", "variant": variant}


def _found(folder: Path) -> set[tuple[str, str | None]]:
    names = (_NAME.fullmatch(path.name) for path in folder.glob("*"))
    return {(match["kind"], match["variant"]) for match in names if match}


def _rank(file: tuple[str, str | None]) -> tuple[bool, int, str]:
    kind, variant = file
    order = (None, *_PREFERRED)
    place = order.index(variant) if variant in order else len(order)
    return kind == "bin", place, variant or ""
