"""adapter_config.json of PEFT, read with care: it comes from anywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdpo_sr.generators.families import AUTOENCODERS, NETWORKS
from gdpo_sr.types import CheckpointError
from gdpo_sr.utils.json_file import read_object

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG_FILE = "adapter_config.json"
_OTHER_KINDS = (
    "use_dora",
    "lora_bias",
    "use_qalora",
    "fan_in_fan_out",
    "modules_to_save",
    "layers_to_transform",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
)
"""Settings of PEFT that make more of an adapter than two matrices a module."""
_OTHER_BASES = ("pissa", "olora", "corda", "loftq")
"""Starts of PEFT's `init_lora_weights` that go with other weights of the base."""
_PATIENCE = 10.0  # seconds for the patterns of a config on all names of a network
_MATCH = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    for name in names:
        re.fullmatch(pattern, name)
"""


def read_config(file: Path) -> LoraConfig:
    """The settings of a plain LoRA in PEFT's file; errors as `parse_config`."""
    return parse_config(read_object(file, "copy the LoRA again"), file)


def parse_config(values: Any, file: Path) -> LoraConfig:
    """The settings of a plain LoRA out of PEFT's, which are from `file`.

    Raises:
        CheckpointError: the file is damaged, a value is of a wrong kind, or the adapter is of
            another kind than LoRA.
    """
    from peft import LoraConfig

    if not isinstance(values, dict) or values.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(f"'{file}': peft_type is not LORA: give an adapter of that kind")
    for key in filter(values.get, _OTHER_KINDS):
        raise CheckpointError(
            f"'{file}': {key} = {json.dumps(values[key]):.60} is not supported: train a plain LoRA"
        )
    if values.get("bias", "none") != "none":
        bias = repr(values["bias"])
        raise CheckpointError(f"'{file}': bias = {bias:.60} is not supported, only 'none'")
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_OTHER_BASES):
        raise CheckpointError(
            f"'{file}': init_lora_weights = {start!r:.60} goes with changed weights of the base: "
            "save it as a plain LoRA (PEFT's path_initial_model_for_weight_conversion)"
        )
    return LoraConfig(
        r=_number(values, "r", 1, file),
        lora_alpha=_number(values, "lora_alpha", 0, file),
        lora_dropout=_dropout(values, file),
        use_rslora=bool(values.get("use_rslora")),
        rank_pattern=_pattern(values, "rank_pattern", 1, file),
        alpha_pattern=_pattern(values, "alpha_pattern", 0, file),
        target_modules=_names(values, "target_modules", file),
        exclude_modules=_names(values, "exclude_modules", file, optional=True),
        init_lora_weights="gaussian",
    )


def _wrong(file: Path, key: str, value: Any, expected: str) -> CheckpointError:
    shown = json.dumps(value)
    shown = shown if len(shown) < 60 else f"{shown[:57]}..."
    return CheckpointError(f"'{file}': {key} = {shown}, expected {expected}: copy the LoRA again")


def _number(values: dict[str, Any], key: str, least: int, file: Path) -> int:
    value = values.get(key)
    is_number = isinstance(value, int if least else (int, float)) and not isinstance(value, bool)
    if not is_number or not least <= value < 1e6:
        raise _wrong(file, key, value, f"a number of at least {least}")
    return value


def _dropout(values: dict[str, Any], file: Path) -> float:
    value = values.get("lora_dropout", 0.0)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
        raise _wrong(file, "lora_dropout", value, "a number in 0 .. 1")
    return float(value)


def _pattern(values: dict[str, Any], key: str, least: int, file: Path) -> dict[str, int]:
    value = values.get(key) or {}
    if not isinstance(value, dict):
        raise _wrong(file, key, value, "an object of numbers")
    return {name: _number(value, name, least, file) for name in value}


def _names(
    values: dict[str, Any], key: str, file: Path, optional: bool = False
) -> list[str] | str | None:
    value = values.get(key)
    if optional and not value:
        return None
    several = value if isinstance(value, list) else [value]
    if not several or not all(isinstance(name, str) and name for name in several):
        raise _wrong(file, key, value, "names of modules or a regular expression")
    return value


def check_patterns(config: LoraConfig, names: Iterable[str], source: str | Path) -> None:
    """Refuse a regular expression that is none, or that does not come to an end.

    PEFT matches them against the names of all modules, and nothing could stop it there.

    Raises:
        CheckpointError: one is bad, with the pattern.
    """
    patterns = [p for p in _patterns(config) if p not in _own_patterns()]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise CheckpointError(
                f"LoRA '{source}': {pattern!r} in {CONFIG_FILE} is no regular expression ({error}):"
                " copy the LoRA again"
            ) from error
    risky = [pattern for pattern in patterns if re.search(r"[*+{]", pattern)]
    if not risky:
        return
    try:
        text = json.dumps([risky, list(names)])
        command = [sys.executable, "-I", "-c", _MATCH]
        subprocess.run(command, input=text, text=True, timeout=_PATIENCE, check=True)
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(
            f"LoRA '{source}': the patterns {risky} in {CONFIG_FILE} need more than "
            f"{_PATIENCE:g} s for the names of this network's modules: name the modules in a list"
        ) from error


def _patterns(config: LoraConfig) -> list[str]:
    whole = [p for p in (config.target_modules, config.exclude_modules) if isinstance(p, str)]
    ends = [*config.rank_pattern, *config.alpha_pattern]
    return [*whole, *(rf"(.*\.)?({end})$" for end in ends)]


def _own_patterns() -> set[str]:
    return {family.lora_targets for family in (*NETWORKS.values(), *AUTOENCODERS.values())}
