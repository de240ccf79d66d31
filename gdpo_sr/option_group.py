"""What every section of an options file has in common."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict


class OptionGroup(BaseModel):
    """One section: unknown keys and non-finite numbers are errors; values cannot be reassigned."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


def raise_problems(problems: Iterator[str]) -> None:
    """Raise a ValueError with one line per problem, or nothing if there is none.

    Cross-field checks are generators that yield problems, so that all of them are reported at once.
    """
    if lines := list(problems):
        raise ValueError("\n".join(lines))
