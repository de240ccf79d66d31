"""YAML with the safe loader, YAML 1.2 numbers and booleans, and no duplicate keys.

PyYAML follows YAML 1.1, in which `5e-5` is a string and `no` a boolean; `lr: 5e-5` and
`mixed_precision: no` are meant otherwise.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from gdpo_sr.types import OptionError

_REPLACED = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class _Loader(yaml.SafeLoader):
    """Safe loader with the two changes of this module."""

    yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in resolvers if tag not in _REPLACED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Mapping of a node; a key that is written twice is an error."""
        seen: set[str] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = key_node.value
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is written twice: keep one", key_node.start_mark
                )
            seen.add(str(key))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse_yaml(text: str, source: str) -> Any:
    """Value of a YAML text.

    Args:
        text: one YAML document.
        source: where the text is from, for the message.

    Raises:
        OptionError: no valid YAML; the message names the source and the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506, a subclass of SafeLoader
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
        text = Path(file).read_text(encoding="utf-8")
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
    return yaml.safe_dump(
        values, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )
