"""Objects by name: `type: OnlineDataset` in an options file becomes the class of that name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

from gdpo_sr.types import OptionError

T = TypeVar("T", bound=Callable[..., Any])


class Registry:
    """Classes or functions of one kind, found by name.

    Args:
        name: what is registered, for error messages: "dataset", "model", "reward".
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._objects: dict[str, Callable[..., Any]] = {}

    def register(self, name: str | None = None) -> Callable[[T], T]:
        """Decorator that files an object under `name`, or under its own name.

        Raises:
            ValueError: the name is taken by another object.
        """

        def decorate(obj: T) -> T:
            key = name or obj.__name__
            if self._objects.get(key, obj) is not obj:
                raise ValueError(f"{self.name} {key!r} is registered twice: {obj!r}")
            self._objects[key] = obj
            return obj

        return decorate

    def get(self, key: str) -> Callable[..., Any]:
        """Object filed under `key`.

        Raises:
            OptionError: nothing is; the message names the closest match and all known names.
        """
        if key in self._objects:
            return self._objects[key]
        lower = {known.lower(): known for known in self._objects}
        close = difflib.get_close_matches(str(key).lower(), lower, n=1)
        hint = f"did you mean {lower[close[0]]!r}? " if close else ""
        known = ", ".join(self.names()) or "none"
        raise OptionError(f"unknown {self.name} {key!r}: {hint}known: {known}")

    def names(self) -> list[str]:
        """Known names in alphabetical order."""
        return sorted(self._objects)

    def __contains__(self, key: object) -> bool:
        return key in self._objects
