"""Seconds of the parts of an update: all its batches in each of them, and the GPU waited for."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from gdpo_sr.stage2.gdpo_model import GDPOModel
from gdpo_sr.types import LossOutput
from gdpo_sr.utils.timing import Timer


class Clock:
    """A processor and a GPU whose work takes as long as the test says."""

    def __init__(self, monkeypatch) -> None:
        self.now, self.queued = 100.0, 0.0
        monkeypatch.setattr("gdpo_sr.utils.timing.time.perf_counter", lambda: self.now)
        monkeypatch.setattr("torch.cuda.synchronize", self.wait)

    def work(self, seconds: float, result: object = None) -> object:
        self.now += seconds
        return result

    def wait(self, device: torch.device) -> None:
        self.now, self.queued = self.now + self.queued, 0.0


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def stage2(clock: Clock, accumulation: int) -> GDPOModel:
    """The trainer's own loop; sampling a batch takes 1 s, its rewards 2, its loss 4, backward 8."""
    model = GDPOModel.__new__(GDPOModel)
    model.options = SimpleNamespace(
        train=SimpleNamespace(accumulation=accumulation, update_chunk=None)
    )
    model.accelerator = SimpleNamespace(autocast=nullcontext, gather=None)
    model.timer, model.iteration = Timer(torch.device("cpu")), 0
    model.beside, model.rewards = {}, {}
    model.log = SimpleNamespace(is_due=lambda iteration: True)
    model.to_batch = lambda item: clock.work(0.5, SimpleNamespace(hr=torch.zeros(1)))
    loss = LossOutput(torch.zeros(()), {"seconds_loss": torch.ones(()), "won": torch.ones(())})

    class Step:
        sample = staticmethod(lambda batch: clock.work(1))
        score = staticmethod(lambda group, hr, on_host: clock.work(2))
        liked_hacks = staticmethod(lambda group, hr: {})
        set_advantages = staticmethod(lambda items, gather: None)

        def __call__(self, item: object) -> LossOutput:
            return clock.work(4, loss)

    model.step = Step()
    model.weight_update = SimpleNamespace(
        backward=lambda loss: clock.work(8), step=lambda: clock.work(16, 1.0),
        learning_rate=1.0, skipped=0,
    )  # fmt: skip
    return model


@pytest.mark.parametrize("accumulation", [1, 3])
def test_every_part_spans_the_update(clock, monkeypatch, accumulation: int):
    """Three batches: sampling 3 x 1 s, backward 3 x 8 s; the parts add up to the total."""
    monkeypatch.setattr("gdpo_sr.stage2.gdpo_model.group_logs", lambda item, rewards: {})
    model = stage2(clock, accumulation)
    logs = model._update(iter([{}] * accumulation))
    seconds = {n.removeprefix("seconds_"): s for n, s in logs.items() if n.startswith("seconds_")}
    one = {"data": 0.5, "sampling": 1, "rewards": 2, "update": 4, "backward": 8, "loss": 1}
    assert seconds == {
        **{name: accumulation * value for name, value in one.items()},
        "step": 16,
        "total": accumulation * 15.5 + 16,
    }
    assert logs["won"] == 1 and model.iteration == 1


@pytest.mark.parametrize(("device", "seconds"), [("cuda", 5.0), ("cpu", 0.0)])
def test_a_gpu_is_waited_for(clock, device: str, seconds: float):
    """What is queued inside counts there, what was queued before does not."""
    timer = Timer(torch.device(device))
    clock.queued = 7.0
    timer.start(True)
    clock.queued += 3.0
    with timer("part"):
        clock.queued += 5.0
    assert timer.logs()["seconds_part"] == seconds


def test_updates_that_are_not_logged_do_not_wait(clock):
    timer = Timer(torch.device("cuda"))
    timer.start(False)
    clock.queued = 5.0
    with timer("part"):
        pass
    assert timer.logs() == {} and clock.queued == 5.0
