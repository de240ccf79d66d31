"""What is in the folder of a base's part, looked at before a library builds anything of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gdpo_sr.types import CheckpointError
from gdpo_sr.utils.json_file import read_object

REMEDY = "give a complete model in diffusers layout"
MAX_NUMBER = 1_000_000
MAX_LAYERS = 1000
"""Of any setting, and of those that count layers or blocks: with more a library would build until
the memory is full."""
_ELSEWHERE = (
    "auto_map",
    "quantization_config",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "_experts_implementation_internal",
    "transformers_weights",
)
"""Settings by which the libraries take code, kernels or files from elsewhere."""


def read_part(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The config of a part.

    Raises:
        CheckpointError: it is damaged, asks for too much, or names what is not in the folder.
    """
    file = folder / name
    config = read_object(file, REMEDY)
    for key in filter(config.get, _ELSEWHERE):
        raise CheckpointError(
            f"'{file}': {key} = {config[key]!r:.60} takes code or files from elsewhere and is not "
            f"followed: remove it, or {REMEDY}"
        )
    for key, value in _numbers(config):
        limit = MAX_LAYERS if "layers" in key or key == "num_block" else MAX_NUMBER
        if not abs(value) <= limit:  # also what is no number
            raise CheckpointError(
                f"'{file}': {key} = {value!r:.30} is over the limit of {limit}: {REMEDY}"
            )
    _check_files(folder)
    return config


def _check_files(folder: Path) -> None:
    """Raise CheckpointError for files by which a part would come from other places."""
    if (folder / "adapter_config.json").exists():  # transformers would fetch the base it names
        raise CheckpointError(
            f"'{folder}' holds an adapter, which a part of a base cannot be: remove "
            "adapter_config.json, or merge it"
        )
    for index in folder.glob("*.index.json"):
        files = read_object(index, REMEDY).get("weight_map")
        names = files.values() if isinstance(files, dict) else [""]
        if not all(isinstance(n, str) and n and n == Path(n).name for n in names):
            raise CheckpointError(f"'{index}' names weights outside of its folder: {REMEDY}")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """All numbers inside, each with the key that it stands under."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _numbers(part, str(name))
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value
