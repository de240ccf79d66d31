"""Validation errors in the words of an options file: key, value, limit, the closest valid key."""

from __future__ import annotations

import difflib
import reprlib
import typing
from collections.abc import Callable, Iterator
from types import UnionType

from pydantic import BaseModel, Tag, ValidationError

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60
_SECTION_ERRORS = ("model_type", "model_attributes_type", "dict_type", "union_tag_not_found")


def describe_problems(
    error: ValidationError, root: type[BaseModel], source: Callable[[tuple], str]
) -> Iterator[str]:
    """One line per problem of `error`.

    Args:
        error: raised by validating `root`.
        root: model of the whole options file.
        source: maps the location of a problem to where its value was written.
    """
    for item in error.errors(include_url=False):
        location = item["loc"]
        for line in _lines(item, location, root):
            yield _printable(f"{source(_written(location, root))}: {line}")


def _printable(text: str) -> str:
    """A mark that nobody sees, such as U+FEFF in a key, is an escape."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _lines(item: typing.Any, location: tuple, root: type[BaseModel]) -> list[str]:
    key = ".".join(map(str, _written(location, root)))
    if item["type"] == "extra_forbidden":
        return [f"{key} = {_REPR.repr(item['input'])}: unknown key; {suggest(location, root)}"]
    if item["type"] == "union_tag_invalid":
        return [_unknown_type(key, item["ctx"])]
    if item["type"] == "missing":
        return [f"{key} is missing{_meaning(location, root)}"]
    if item["type"] in _SECTION_ERRORS:
        return [f"{key} = {_REPR.repr(item['input'])}: must be a section of 'key: value' lines"]
    if item["type"] == "value_error" and isinstance(item["input"], dict):
        return [f"{key}: {line}" if key else line for line in str(item["ctx"]["error"]).split("\n")]
    message = item["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return [f"{key} = {_REPR.repr(item['input'])}: {message}{_meaning(location, root)}"]


def _unknown_type(key: str, context: dict[str, str]) -> str:
    known = [name.strip("'") for name in context["expected_tags"].split(", ")]
    close = difflib.get_close_matches(context["tag"].lower(), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{key}.type = {context['tag']!r}: {hint}known: {', '.join(known)}"


def suggest(location: tuple, root: type[BaseModel]) -> str:
    """Where an unknown key belongs, or the closest valid keys beside it."""
    *parents, wrong = map(str, _written(location, root))
    level = _model_at(location[:-1], root)
    fields = list(level.model_fields) if level else []
    tree = list(dict.fromkeys(_all_keys(root)))
    hints = []
    if ".".join([*parents, wrong]) in tree:
        return f"type {location[-2]} does not take it, its keys are {', '.join(fields)}"
    if elsewhere := _ending_in(wrong.lower(), tree):
        hints.append(f"it belongs to {_either(elsewhere)}")
    if close := difflib.get_close_matches(wrong.lower(), fields, n=1):
        hints.append(f"did you mean {'.'.join([*parents, close[0]])}?")
    if not hints:
        leaves = {key.split(".")[-1] for key in tree}
        for leaf in difflib.get_close_matches(wrong.lower(), sorted(leaves), n=1, cutoff=0.75):
            hints.append(f"did you mean {_either(_ending_in(leaf, tree))}?")
    return ", or ".join(hints) or f"valid keys here: {', '.join(fields)}"


def _ending_in(leaf: str, tree: list[str]) -> list[str]:
    return [key for key in tree if key.split(".")[-1] == leaf]


def _either(keys: list[str], limit: int = 3) -> str:
    more = " or others" if len(keys) > limit else ""
    return " or ".join(keys[:limit]) + more


def _meaning(location: tuple, root: type[BaseModel]) -> str:
    """Description of the field at `location` in brackets, or nothing."""
    level = _model_at(location[:-1], root)
    field = level.model_fields.get(str(location[-1])) if level and location else None
    return f" ({field.description.rstrip('.')})" if field and field.description else ""


def _model_at(location: tuple, root: type[BaseModel]) -> type[BaseModel] | None:
    """Model whose fields are the valid keys at `location`; None below a plain value."""
    kind: typing.Any = root
    for key in location:
        if members := _members(kind):
            kind = members.get(key)
            continue
        if typing.get_origin(kind) is dict:
            kind = typing.get_args(kind)[1]
            continue
        field = kind.model_fields.get(key) if _is_model(kind) else None
        if field is None:
            return None
        kind = _without_none(field.annotation)
    return kind if _is_model(kind) else None


def _members(kind: typing.Any) -> dict[str, typing.Any]:
    """Kinds of a union that are told apart by a tag, by tag; empty for any other kind."""
    members = {}
    for arg in typing.get_args(kind):
        for note in getattr(arg, "__metadata__", ()):
            if isinstance(note, Tag):
                members[note.tag] = typing.get_args(arg)[0]
    return members


def _written(location: tuple, root: type[BaseModel]) -> tuple:
    """`location` as a file writes it: without the tags that pydantic puts in for unions."""
    return tuple(
        key
        for position, key in enumerate(location)
        if not (position and _is_tag(location[:position], key, root))
    )


def _is_tag(parents: tuple, key: object, root: type[BaseModel]) -> bool:
    level = _model_at(parents[:-1], root)
    field = level.model_fields.get(str(parents[-1])) if level else None
    return field is not None and key in _members(field.annotation)


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys below `model`; `<name>` stands for a name of the user's choice."""
    for name, field in model.model_fields.items():
        kind = _without_none(field.annotation)
        yield prefix + name
        if typing.get_origin(kind) is dict and _is_model(typing.get_args(kind)[1]):
            yield from _all_keys(typing.get_args(kind)[1], f"{prefix}{name}.<name>.")
        for part in filter(_is_model, [*_members(field.annotation).values(), kind]):
            yield from _all_keys(part, f"{prefix}{name}.")


def _without_none(kind: typing.Any) -> typing.Any:
    if typing.get_origin(kind) in (UnionType, typing.Union) and not _members(kind):
        return next(arg for arg in typing.get_args(kind) if arg is not type(None))
    return kind


def _is_model(kind: typing.Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
