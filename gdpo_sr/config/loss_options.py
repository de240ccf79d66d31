"""The section `train.loss`: one group of options for every loss of `gdpo_sr.losses`, by `type`."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Tag

from gdpo_sr.losses import OPTIONS
from gdpo_sr.option_group import OptionGroup


def loss_type(value: Any) -> str | None:
    """Which of the groups a value is for: its `type`, "gdpo" where none is given."""
    if isinstance(value, dict):
        return value.get("type", "gdpo")
    return getattr(value, "type", None)


if TYPE_CHECKING:
    LossOptions = OptionGroup
else:
    _GROUPS = [Annotated[options, Tag(name)] for name, options in OPTIONS.items()]
    LossOptions = Annotated[functools.reduce(operator.or_, _GROUPS), Discriminator(loss_type)]
