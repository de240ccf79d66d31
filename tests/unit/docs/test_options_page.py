"""The options reference: everything that the schema knows, and nothing else."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from docs.hooks.options_page import option_keys, options_page, sections
from gdpo_sr.config.schema import GDPOOptions, NAOSDOptions

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def schema() -> dict:
    return json.loads((ROOT / "options" / "schema.json").read_text("utf-8"))


def models_in(annotation: object) -> Iterator[tuple[type[BaseModel], bool]]:
    """Groups of options inside an annotation, and whether they are the values of a dict."""
    named = typing.get_origin(annotation) is dict
    for part in typing.get_args(annotation):
        yield from ((model, named or inner) for model, inner in models_in(part))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, False


def keys_of(model: type[BaseModel], place: str = "") -> Iterator[str]:
    """Dotted keys by walking the classes, which the page does not."""
    for key, field in model.model_fields.items():
        yield f"{place}{key}"
        for inner, named in models_in(field.annotation):
            yield from keys_of(inner, f"{place}{key}.{'NAME.' if named else ''}")


def test_every_option_of_the_classes_is_in_the_reference(schema: dict):
    assert option_keys(schema) == {*keys_of(GDPOOptions), *keys_of(NAOSDOptions)}


def test_every_option_has_a_row_in_the_table_of_its_section(schema: dict):
    page = options_page(schema)
    parts = re.split(r"^## .*\{#(\w+)\}$", page, flags=re.MULTILINE)
    tables = dict(zip(parts[1::2], parts[2::2], strict=True))
    for section in sections(schema):
        rows = re.findall(r"^\| `(\w+)` \|", tables[section.name], flags=re.MULTILINE)
        assert rows == list(schema["$defs"][section.name]["properties"])


def test_every_link_to_a_section_has_its_heading(schema: dict):
    page = options_page(schema)
    linked = set(re.findall(r"\(#(\w+)\)", page))
    assert linked and linked <= set(re.findall(r"\{#(\w+)\}", page))


def test_rows_say_values_and_default(schema: dict):
    page = options_page(schema)
    assert "| `group_size` | integer ≥ 2, ≤ 64 | `6` |" in page
    assert "| `name` | text | **required** |" in page
    assert "| `use_rot` | `true`, `false` | `false` |" in page
    assert "| `t_add_range` | 2 × integer | `[100, 400]` |" in page
    assert "| `fidelity` | NAME: [section](#RewardOptions) | `{}` |" in page
    assert "| `cell_size` | integer ≥ 8, a multiple of 8 or `null` | `null` |" in page


def test_a_section_names_its_places_and_stages(schema: dict):
    found = {section.name: section for section in sections(schema)}
    places = ["datasets.train.degradation", "datasets.val.degradation"]
    assert found["DegradationOptions"].places == places
    assert found["LossesOptions"].stages == ["stage 1"]
    assert found["LoggerOptions"].stages == ["stage 2", "stage 1"]
    assert "`train.loss` of type `grpo` (stage 2) {#GRPOLossOptions}" in options_page(schema)
