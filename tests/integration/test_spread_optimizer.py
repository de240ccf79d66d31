"""DeepSpeed's ZeRO-2 on a small network in two processes, and what is refused."""

from __future__ import annotations

import subprocess

import pytest
from accelerate import Accelerator

from gdpo_sr.trainer import spread_optimizer
from gdpo_sr.trainer.spread_optimizer import spreads_states, without_wrapper
from gdpo_sr.types import OptionError
from tests.integration.test_processes import DEEPSPEED, ENVIRONMENT, ROOT, TORCHRUN, needs_deepspeed


@needs_deepspeed
def test_slices_train_as_the_whole():
    """Accumulation, clipping, schedule, a skipped update, states saved and loaded: see the file."""
    command = [*TORCHRUN, str(ROOT / "tests" / "spread_processes.py")]
    environment = {**ENVIRONMENT, **DEEPSPEED}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A launcher's environment, on a machine that has DeepSpeed."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr(spread_optimizer, "is_deepspeed_available", lambda: True)
    monkeypatch.setattr(spread_optimizer, "compare_versions", lambda *_: False)
    return monkeypatch


def enter(mixed_precision: str = "no") -> bool:
    """What accelerate would see of DeepSpeed."""
    with without_wrapper(mixed_precision):
        return spread_optimizer._asked_for()


def test_accelerate_does_not_see_deepspeed(asked: pytest.MonkeyPatch):
    assert enter("bf16") is False and spread_optimizer._asked_for()
    with without_wrapper("no"):
        accelerator = Accelerator(cpu=True)
    assert not spreads_states(accelerator), "one process has nothing to spread"


@pytest.mark.parametrize(
    ("name", "value"),
    [("ZERO_STAGE", "3"), ("OFFLOAD_OPTIMIZER_DEVICE", "cpu"), ("CONFIG_FILE", "my.json")],
)
def test_anything_but_stage_two_is_refused(asked: pytest.MonkeyPatch, name: str, value: str):
    asked.setenv(f"ACCELERATE_DEEPSPEED_{name}", value)
    with pytest.raises(OptionError, match=f"{name} is {value} .*deepspeed_zero2.yaml"):
        enter()


def test_fp16_is_refused(asked: pytest.MonkeyPatch):
    with pytest.raises(OptionError, match="fp16.*bf16"):
        enter("fp16")


def test_a_missing_package_is_named_with_its_remedy(asked: pytest.MonkeyPatch):
    asked.setattr(spread_optimizer, "is_deepspeed_available", lambda: False)
    with pytest.raises(OptionError, match=r"not installed: pip install 'gdpo-sr\[deepspeed\]'"):
        enter()
