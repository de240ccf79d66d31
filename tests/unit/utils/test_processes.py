"""One process alone needs no accelerate; several get its PartialState."""

from __future__ import annotations

import torch

from gdpo_sr.utils import processes
from gdpo_sr.utils.processes import Alone, gather, this_process


def test_alone_it_has_everything(monkeypatch):
    for name in processes._COUNTS:
        monkeypatch.delenv(name, raising=False)
    process = this_process(cpu=True)
    assert process == Alone(torch.device("cpu")) and process.is_main_process
    assert (process.process_index, process.num_processes) == (0, 1)
    process.wait_for_everyone()
    assert gather(process, ["a"]) == ["a"]


def test_a_launcher_of_several_is_noticed(monkeypatch):
    made = []
    monkeypatch.setattr("accelerate.PartialState", lambda **options: made.append(options) or "all")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert this_process(cpu=True) == "all" and made[0]["cpu"] is True
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert isinstance(this_process(), Alone)
