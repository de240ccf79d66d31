"""Processes draw the rows of one global batch; what one loses or misses is said in one line."""

from __future__ import annotations

import logging
import os
import signal
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from gdpo_sr.advantages import permutation_within_groups
from gdpo_sr.config.degradation import DegradationOptions
from gdpo_sr.data.degradations import RealESRGANDegradation
from gdpo_sr.group.sample import draw_noise
from gdpo_sr.shared_random import SharedGenerator, draw_rows
from gdpo_sr.trainer import stop_signal
from gdpo_sr.trainer.processes import agree, log_processes, without_the_lost
from gdpo_sr.trainer.random_sources import RandomSources
from gdpo_sr.trainer.stop_signal import StopSignal
from gdpo_sr.types import ProcessError


def generators(world: int, seed: int = 7) -> list[SharedGenerator]:
    shares = [SharedGenerator(rank, world) for rank in range(world)]
    for generator in shares:
        generator.manual_seed(seed)
    return shares


@pytest.mark.parametrize(
    "draw",
    [
        lambda n, rng: draw_noise((n, 3, 5, 5), rng, "cpu"),
        lambda n, rng: permutation_within_groups((n, 6), rng),
        lambda n, rng: draw_rows(partial(torch.randint, 3, 900), (n,), rng),
    ],
)
def test_processes_draw_the_rows_of_one(draw):
    """Twice, since the second draw must begin in the same state everywhere."""
    [alone], shares = generators(1), generators(3)
    for _ in range(2):
        parts = [draw(2, rng) for rng in shares]
        assert torch.equal(draw(6, alone), torch.cat(parts))


def test_one_process_draws_as_a_plain_generator_does():
    [rng] = generators(1)
    plain = torch.Generator().manual_seed(7)
    assert torch.equal(draw_noise((2, 3), rng, "cpu"), torch.randn(2, 3, generator=plain))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("light_prob", [0.0, 0.5])
def test_halves_of_a_batch_are_degraded_as_the_whole(seed: int, light_prob: float):
    """Gaussian and Poisson noise, kernels, qualities: to the 8-bit level of rounding."""
    hr = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    degrade = RealESRGANDegradation(DegradationOptions(light_prob=light_prob))
    [alone], shares = generators(1, seed), generators(2, seed)
    whole = degrade(hr, alone)
    halves = [degrade(part, rng) for part, rng in zip(hr.split(2), shares, strict=True)]
    assert (whole - torch.cat(halves)).abs().max() <= 1 / 255 + 1e-6
    assert torch.equal(torch.rand(4, generator=alone), torch.rand(4, generator=shares[1]))


def test_wrong_share():
    with pytest.raises(ValueError, match="process 2 of 2"):
        SharedGenerator(2, 2)


def test_sources_are_equal_in_all_processes_and_restored():
    sources = [RandomSources(3, ("a", "b"), rank, 2) for rank in (0, 1)]
    state = sources[0].state_dict()
    drawn = [torch.rand(4, generator=s["a"]) for s in sources]
    assert torch.equal(*drawn)
    sources[1].load_state_dict(state)
    assert torch.equal(torch.rand(4, generator=sources[1]["a"]), drawn[0])
    assert not torch.equal(torch.rand(4, generator=sources[1]["b"]), drawn[0])


def process(count: int = 1, **values: object) -> SimpleNamespace:
    """An accelerator, as far as these functions look."""
    device = torch.device("cpu")
    return SimpleNamespace(
        num_processes=count, process_index=0, device=device, state=SimpleNamespace(), **values
    )


def test_figures_and_stop_are_agreed_upon():
    assert agree({"a": 1.0}, True, process()) == ({"a": 1.0}, True)
    other = torch.tensor([[1.0, 3.0, float("nan")]])
    gather = lambda own: torch.cat([own, other])  # noqa: E731
    figures, stop = agree({"a": 1.0, "b": 5.0}, False, process(2, gather=gather))
    assert figures == {"a": 2.0, "b": 5.0} and stop


def test_a_broken_connection_is_one_line():
    with pytest.raises(ProcessError, match="process 0 of 2 lost another one"):
        with without_the_lost(process(2)):
            raise RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shapes"):
        with without_the_lost(process(2)):
            raise RuntimeError("shapes differ")


def test_processes_that_were_not_started_are_missed(monkeypatch, caplog):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("RANK", raising=False)
    log_processes(process(), logging.getLogger("test"))
    assert "torchrun --standalone" in caplog.text
    caplog.clear()
    log_processes(process(2), logging.getLogger("test"))
    assert "torchrun" not in caplog.text


def test_an_echo_of_ctrl_c_does_not_interrupt(monkeypatch):
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        monkeypatch.setattr(stop_signal, "ECHO", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
