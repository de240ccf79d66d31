"""Files of weights, which come from anywhere, give tensors and never run code."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from gdpo_sr.types import MetricError


def _plain_numpy() -> list[Any]:
    """What arrays and numbers of numpy are made of in a pickle; none of it runs code."""
    made_by = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    return [*made_by, np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd")]


@contextlib.contextmanager
def weights_only() -> Iterator[None]:
    """Inside, `torch.load` reads tensors and plain values alone, whatever its caller asks for.

    Also a .safetensors file, by its name.

    Raises:
        MetricError: a file holds anything else.
    """
    original = torch.load

    def load(file: Any, *args: Any, **options: Any) -> Any:
        if isinstance(file, (str, Path)) and str(file).endswith(".safetensors"):
            return load_file(file)
        try:
            return original(file, *args, **{**options, "weights_only": True})
        except pickle.UnpicklingError as error:
            raise MetricError(
                f"'{getattr(file, 'name', file)}' holds more than tensors, which could run code, "
                "and is not loaded: save its weights alone, as .safetensors or by torch.save of a "
                "state dict"
            ) from error

    torch.load = load
    try:
        with torch.serialization.safe_globals(_plain_numpy()):
            yield
    finally:
        torch.load = original
