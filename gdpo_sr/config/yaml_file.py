"""YAML of plain values: the core tags and numbers of YAML 1.2, no key twice, no tricks.

PyYAML follows YAML 1.1, in which `5e-5` is a string, `no` a boolean, `017` fifteen and `1:30`
ninety; options files mean otherwise. It reads the text; values are built here.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from gdpo_sr.types import OptionError

MAX_CHARACTERS = 2**20
MAX_VALUES = 20_000
MAX_DEPTH = 40
MAX_DIGITS = 400

_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    "null": re.compile(r"(?:~|null|Null|NULL|)"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
    ),
    "merge": re.compile("<<"),
}
"""How the values of every core tag are written, tried in this order; anything else is text."""


def _kind(text: str) -> str:
    """Tag of an unquoted scalar."""
    return next((kind for kind, form in _PLAIN.items() if form.fullmatch(text)), "str")


class _Loader(yaml.SafeLoader):
    """Composes nodes with the tags of YAML 1.2, not too deep."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth == MAX_DEPTH:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(None, None, f"more than {MAX_DEPTH} levels", mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def resolve(self, kind: type, value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _TAG + (_kind(value) if implicit[0] else "str")
        return _TAG + ("seq" if kind is yaml.SequenceNode else "map")


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.2 would take for something else."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _kind(text) == "str" else "'"
    return dumper.represent_scalar(_TAG + "str", text, style=style)


_Dumper.add_representer(str, _represent_text)


class _Builder:
    """Values of nodes; an alias is built again at every place, and all that is built is counted."""

    def __init__(self) -> None:
        self.count = 0
        self.open: list[yaml.Node] = []

    def value(self, node: yaml.Node) -> Any:
        """Value of a node of a core tag."""
        self.count += 1
        if self.count > MAX_VALUES:
            raise _problem(node, f"more than {MAX_VALUES} values, counting those of aliases")
        if node in self.open:
            raise _problem(node, "an alias stands inside what it names")
        if len(self.open) == MAX_DEPTH:
            raise _problem(node, f"more than {MAX_DEPTH} levels")
        self.open.append(node)
        value = self._build(node)
        self.open.pop()
        return value

    def _build(self, node: yaml.Node) -> Any:
        tag = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and tag == "map":
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode) and tag == "seq":
            return [self.value(part) for part in node.value]
        if isinstance(node, yaml.ScalarNode) and tag in (*_PLAIN, "str"):
            return _scalar(node, tag)
        shown = node.tag.replace(_TAG, "!!")
        raise _problem(node, f"tag {shown} is not used here: write the plain value")

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged = {**self._merged(value_node), **merged}
                continue
            key = self.value(key_node)
            if not isinstance(key, str):
                raise _problem(key_node, f"key {key!r:.60} is no name: write it as text")
            if key in own:
                raise _problem(key_node, f"key {key!r} is written twice: keep one")
            own[key] = self.value(value_node)
        return {**merged, **own}

    def _merged(self, node: yaml.Node) -> dict[str, Any]:
        """What `<<` brings in: a mapping, or several of which the first ones hold."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, Any] = {}
        for part in parts:
            value = self.value(part)
            if not isinstance(value, dict):
                raise _problem(part, "<< takes the keys of a section: give an alias of one")
            found = {**value, **found}
        return found


def _scalar(node: yaml.ScalarNode, tag: str) -> Any:
    text = node.value
    if tag in ("str", "merge"):
        return text
    if not _PLAIN[tag].fullmatch(text):
        raise _problem(node, f"{text!r:.60} is no {tag}")
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() == "true"
    if tag == "float":
        return _finite(node)
    if len(text) > MAX_DIGITS:
        raise _problem(node, f"a number of {len(text)} digits; {MAX_DIGITS} are the most")
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _finite(node: yaml.ScalarNode) -> float:
    value = float(node.value) if node.value[-1].isdigit() or node.value[-1] == "." else math.inf
    if not math.isfinite(value):
        raise _problem(node, f"{node.value!r:.60} is no finite number")
    return value


def _problem(node: yaml.Node, text: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, text, node.start_mark)


def parse_yaml(text: str, source: str) -> Any:
    """Value of a YAML text.

    Args:
        text: one YAML document.
        source: where the text is from, for the message.

    Raises:
        OptionError: no valid YAML; the message names the source and the line.
    """
    if len(text) > MAX_CHARACTERS:
        raise OptionError(f"{source}: more than the {MAX_CHARACTERS} characters that are allowed")
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _Builder().value(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise OptionError(f"{source}{line}: {problem}") from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{source}: no valid YAML: {error}") from error


def read_yaml(file: str | Path) -> dict[Any, Any]:
    """Top-level mapping of a YAML file.

    Raises:
        OptionError: unreadable, not UTF-8, no valid YAML, or not a mapping.
    """
    try:
        with Path(file).open(encoding="utf-8") as stream:
            text = stream.read(MAX_CHARACTERS + 1)  # of a device there may be no end
    except OSError as error:
        reason = error.strerror or str(error)
        raise OptionError(f"{file}: cannot be read: {reason}; pass an options file") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"{file}: not UTF-8 text; pass a YAML file") from error
    values = parse_yaml(text, str(file))
    if not isinstance(values, dict):
        raise OptionError(f"{file}: must hold 'key: value' lines, as options/gdpo_sr.yml does")
    return values


def dump_yaml(values: dict[str, Any]) -> str:
    """YAML text of plain values, in their order, readable by `parse_yaml`."""
    return yaml.dump(
        values,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
        default_flow_style=None,
    )
