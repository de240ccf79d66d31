"""What every section of an options file has in common."""

from __future__ import annotations

import typing
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

LARGEST = 3.4e38
"""Of 32-bit floating point numbers."""


class OptionGroup(BaseModel):
    """One section: unknown keys and non-finite numbers are errors; values cannot be reassigned."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: object, info: ValidationInfo) -> object:
        """Not true or false, which Python counts as 1 and 0, nor text."""
        kinds = set(_kinds(cls.model_fields[str(info.field_name)].annotation))
        if kinds & {int, float} and not kinds & {str, bool}:
            check_number(value)
        return value


def check_number(value: object) -> None:
    """Raise ValueError where a number, or several, are asked for and something else is given."""
    if isinstance(value, list | tuple):
        for part in value:
            check_number(part)
    elif isinstance(value, bool | str):
        raise ValueError(f"must be a number, not {str(value).lower()!r:.60}")
    elif isinstance(value, int | float) and abs(value) > LARGEST and value not in _NOT_FINITE:
        raise ValueError(f"must not exceed {LARGEST} in size")


_NOT_FINITE = (float("inf"), float("-inf"))  # pydantic has words for them


def _kinds(annotation: object) -> Iterator[object]:
    """Plain types that an annotation is made of; for literals those of their values."""
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        yield from map(type, parts)
    elif parts and typing.get_origin(annotation) is not dict:
        for part in parts:
            yield from _kinds(part)
    else:
        yield annotation


def raise_problems(problems: Iterator[str]) -> None:
    """Raise a ValueError with one line per problem, or nothing if there is none.

    Cross-field checks are generators that yield problems, so that all of them are reported at once.
    """
    if lines := list(problems):
        raise ValueError("\n".join(lines))
