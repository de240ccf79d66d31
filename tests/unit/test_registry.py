"""Objects are found by name, and a wrong name is explained."""

from __future__ import annotations

import pytest

from gdpo_sr.registry import Registry
from gdpo_sr.types import OptionError


@pytest.fixture
def losses() -> Registry:
    registry = Registry("loss")

    @registry.register()
    def gdpo(value: float) -> float:
        return 2 * value

    @registry.register("dpo")
    class DiffusionDPO:
        pass

    return registry


def test_found_under_own_and_given_name(losses):
    assert losses.get("gdpo")(3.0) == 6.0
    assert losses.get("dpo").__name__ == "DiffusionDPO"
    assert losses.names() == ["dpo", "gdpo"]
    assert "gdpo" in losses and "DiffusionDPO" not in losses


@pytest.mark.parametrize("wrong", ["gpdo", "GDPO", "gdpo_"])
def test_wrong_name_gets_closest_and_known_names(losses, wrong):
    with pytest.raises(OptionError) as caught:
        losses.get(wrong)
    message = str(caught.value)
    assert message == f"unknown loss {wrong!r}: did you mean 'gdpo'? known: dpo, gdpo"


def test_nothing_close_and_nothing_known(losses):
    with pytest.raises(OptionError, match="^unknown loss 'xyz': known: dpo, gdpo$"):
        losses.get("xyz")
    with pytest.raises(OptionError, match="^unknown model 'a': known: none$"):
        Registry("model").get("a")


def test_a_name_is_given_once(losses):
    with pytest.raises(ValueError, match="loss 'gdpo' is registered twice"):
        losses.register("gdpo")(int)
    same = losses.get("gdpo")
    assert losses.register("gdpo")(same) is same
