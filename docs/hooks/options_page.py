"""The options reference, written from the JSON schema of the options (`options/schema.json`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Schema = dict[str, Any]

STAGES = {"GDPOOptions": "stage 2", "NAOSDOptions": "stage 1"}
INTRODUCTION = """# Options

Every key of an options file, written from the schema that checks it. Sections are named by their
place, with dots: the key `gt_size` of the section `datasets.train` is set on the command line by
`--force_yml datasets:train:gt_size=128`. NAME is a name that you choose.

- A key that stands in no table here is an error, and the error names the nearest one.
- `python train.py -opt FILE --dry_run` prints a file with all defaults filled in.
- Editors complete the keys and show these texts by `options/schema.json`, which `gdpo-sr schema`
  writes.
- What a run may change when it goes on stands in [A run and its files](../train/runs.md).
"""
BEGIN, END = '<div class="options" markdown>\n', "</div>\n"  # site.css has a layout for phones
HEAD = "| key | values | default | what |\n|---|---|---|---|"
KINDS = {"integer": "integer", "number": "number", "string": "text", "null": "`null`"}
KINDS["boolean"] = "`true`, `false`"
BOUNDS = {"minimum": "≥ ", "exclusiveMinimum": "> ", "maximum": "≤ ", "exclusiveMaximum": "< "}


@dataclass
class Section:
    """Options that stand together in a file.

    Attributes:
        name: of their schema.
        stages: which have it.
        places: dotted keys of the sections that have just these options; "" is the file.
    """

    name: str
    stages: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def note(self, stage: str, place: str) -> None:
        """It is found in a stage, at a place."""
        for known, value in ((self.stages, stage), (self.places, place)):
            if value not in known:
                known.append(value)


def options_page(schema: Schema) -> str:
    """Markdown: a heading and a table for each section; `schema` holds both stages in `$defs`."""
    parts = [_section_text(section, schema) for section in sections(schema)]
    return "\n".join([INTRODUCTION, BEGIN, *parts, END])


def option_keys(schema: Schema) -> set[str]:
    """Dotted keys of every option of both stages; NAME stands for one that the user chooses."""
    return {
        f"{place}.{key}".lstrip(".")
        for section in sections(schema)
        for place in section.places
        for key in schema["$defs"][section.name]["properties"]
    }


def sections(schema: Schema) -> list[Section]:
    """All sections of both stages, in the order of the file."""
    found: dict[str, Section] = {}
    for root, stage in STAGES.items():
        for place, name in _walk(schema, root, ""):
            found.setdefault(name, Section(name)).note(stage, place)
    return list(found.values())


def _walk(schema: Schema, name: str, place: str) -> Iterator[tuple[str, str]]:
    yield place, name
    for key, values in schema["$defs"][name]["properties"].items():
        inner = f"{place}.{key}".lstrip(".")
        named = values.get("additionalProperties")
        if isinstance(named, dict):
            inner, values = f"{inner}.NAME", named
        for target in _targets(values):
            yield from _walk(schema, target, inner)


def _targets(values: Schema) -> list[str]:
    """Names of the sections that an option can hold."""
    choices = [values, *values.get("anyOf", []), *values.get("oneOf", [])]
    return [choice["$ref"].rpartition("/")[2] for choice in choices if "$ref" in choice]


def _section_text(section: Section, schema: Schema) -> str:
    own = schema["$defs"][section.name]
    required = own.get("required", [])
    rows = [_row(key, value, key in required) for key, value in own["properties"].items()]
    text = " ".join(own.get("description", "").split())
    return f"## {_title(section, own)} {{#{section.name}}}\n\n{text}\n\n{HEAD}\n" + "\n".join(
        [*rows, ""]
    )


def _title(section: Section, own: Schema) -> str:
    places = ", ".join(f"`{place}`" if place else "The file" for place in section.places)
    if section.places == ["train.loss"]:
        places += f" of type `{own['properties']['type']['const']}`"
    return places if len(section.stages) == len(STAGES) else f"{places} ({section.stages[0]})"


def _row(key: str, values: Schema, required: bool) -> str:
    text = " ".join(values.get("description", "").split()).replace("|", "\\|")
    default = "**required**" if required else _default(values)
    return f"| `{key}` | {_values(values)} | {default} | {text} |"


def _default(values: Schema) -> str:
    if "default" in values:
        return f"`{_yaml(values['default'])}`"
    return {"array": "`[]`", "object": "`{}`"}.get(values.get("type", ""), "")


def _yaml(value: Any) -> str:
    """A value as one writes it in YAML."""
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return '""' if value == "" else str(value)


def _values(values: Schema) -> str:
    """What an option can be, in words."""
    if choices := values.get("anyOf", values.get("oneOf")):
        return " or ".join(map(_values, choices))
    if "$ref" in values:
        [name] = _targets(values)
        return f"[section](#{name})"
    if "const" in values:
        return f"`{values['const']}`"
    if "enum" in values:
        return ", ".join(f"`{_yaml(value)}`" for value in values["enum"])
    return _of_kind(values)


def _of_kind(values: Schema) -> str:
    kind = values.get("type", "")
    if kind == "object":
        named = values.get("additionalProperties")
        return f"NAME: {_values(named)}" if isinstance(named, dict) else "keys and values"
    if kind == "array" and "prefixItems" in values:
        return f"{len(values['prefixItems'])} × {_values(values['prefixItems'][0])}"
    if kind == "array":
        return f"list of {_values(values['items'])}"
    return f"{KINDS[kind]}{_bounds(values)}" if kind else "anything"


def _bounds(values: Schema) -> str:
    parts = [f"{sign}{_short(values[name])}" for name, sign in BOUNDS.items() if name in values]
    if "multipleOf" in values:
        parts.append(f"a multiple of {values['multipleOf']}")
    return f" {', '.join(parts)}" if parts else ""


def _short(value: float) -> str:
    return "2^31" if value == 2**31 else f"{value:g}"
