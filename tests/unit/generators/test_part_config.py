"""Configs of a base's parts: what names code or files from elsewhere, or asks for too much."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gdpo_sr.generators.part_config import read_part
from gdpo_sr.types import CheckpointError


def write(folder: Path, name: str, values: object) -> None:
    (folder / name).write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"auto_map": {"AutoModel": "x.y"}}, "auto_map = .* takes code or files from elsewhere"),
        ({"_attn_implementation": "a/b"}, "_attn_implementation = 'a/b' takes code"),
        ({"block_out_channels": [32, 10**9]}, "block_out_channels = 1000000000 is over the limit"),
        ({"a": {"num_hidden_layers": 1001}}, "num_hidden_layers = 1001 is over the limit of 1000"),
        ({"scaling_factor": float("nan")}, "scaling_factor = nan is over the limit"),
        ({"x": 10**400}, "is over the limit of 1000000"),
        ([1], "holds a list, not an object: give a complete model"),
    ],
)
def test_refused(values: object, message: str, tmp_path: Path):
    write(tmp_path, "config.json", values)
    with pytest.raises(CheckpointError, match=message) as told:
        read_part(tmp_path)
    assert str(told.value).startswith(f"'{tmp_path}/config.json'")
    assert str(told.value).isprintable() and len(str(told.value)) < 500


def test_usual_values_are_read(tmp_path: Path):
    values = {"vocab_size": 49408, "layers": 24, "use": True, "eps": 1e-5, "auto_map": None}
    write(tmp_path, "config.json", values)
    write(tmp_path, "w.safetensors.index.json", {"weight_map": {"a": "w-1.safetensors"}})
    assert read_part(tmp_path) == values


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("adapter_config.json", {}, "holds an adapter"),
        ("w.index.json", {"weight_map": {"a": "../w.safetensors"}}, "outside of its folder"),
        ("w.index.json", {"weight_map": 3}, "outside of its folder"),
    ],
)
def test_files_beside_it(name: str, values: object, message: str, tmp_path: Path):
    write(tmp_path, "config.json", {})
    write(tmp_path, name, values)
    with pytest.raises(CheckpointError, match=message):
        read_part(tmp_path)
