"""JSON that comes from anywhere, and what libraries say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gdpo_sr.types import CheckpointError

LONGEST_REASON = 200


def read_object(file: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: it cannot be read, or holds something else; with `remedy`.
    """
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:  # also what is no UTF-8
        raise CheckpointError(f"'{file}' cannot be read ({reason_of(error)}): {remedy}") from error
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise CheckpointError(f"'{file}' holds a {kind}, not an object: {remedy}")
    return values


def reason_of(error: Exception) -> str:
    """What an error says, as the short part of one printable line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = " ".join(str(text).split())
    line = line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
