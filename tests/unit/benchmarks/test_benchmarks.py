"""The benchmark scripts on tiny settings: they run, compare what they time, and print tables."""

from __future__ import annotations

import argparse

import pytest
import torch

from benchmarks import degradation, inference_latency, startup, texture_ratio, update_signal
from benchmarks.turns import Times, in_turns, machine, summary


def test_summary():
    assert summary([3.0, 1.0, 2.0]) == Times(2.0, 3.0, 1.0)
    assert summary([float(n) for n in range(10)]) == Times(4.5, 9.0, 0.0)


def test_functions_take_turns_after_a_warm_up():
    calls: list[str] = []
    ticks = iter(range(100))
    functions = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    found = in_turns(functions, 2, lambda: next(ticks))
    assert calls == list("ababab") and found == {"a": Times(1, 1, 1), "b": Times(1, 1, 1)}
    assert "torch" in machine("torch")


def test_texture_ratio():
    rows = texture_ratio.measure(texture_ratio.made_up_picture(), 1)
    shares = [row[0] for row in rows.values()]
    assert shares[0] == pytest.approx(shares[1], abs=texture_ratio.TOLERANCE)
    assert len(texture_ratio.table(rows).splitlines()) == 4


def test_degradation():
    """Two independent draws of one distribution: the pictures stay alike in brightness."""
    rows = degradation.measure(2, 96, 3)
    (_, mean, _), (_, other, _) = rows.values()
    assert mean == pytest.approx(other, abs=0.1)
    assert len(degradation.table({2: rows}).splitlines()) == 4


def test_update_signal(monkeypatch, capsys):
    """Two updates of one row: the printed signal is that of its two projections."""
    monkeypatch.setattr(update_signal, "SKIPPED", 1)
    arguments = ["--updates", "2", "--wanted", "1", "--only", "lr, 8 px"]
    monkeypatch.setattr("sys.argv", ["update_signal", *arguments])
    update_signal.main()
    *_, row = capsys.readouterr().out.splitlines()
    name, signal, t = (cell.strip() for cell in row.strip("|").split("|"))
    assert name == "lr, 8 px"
    assert float(t) == pytest.approx(float(signal) * 2**0.5, abs=0.06)


def test_inference_latency(base):
    args = argparse.Namespace(size=64, device="cpu", runs=1)
    runs = {
        name: inference_latency.build(name, args, str(base))
        for name in (inference_latency.PLAIN, "fp32")
    }
    differences = inference_latency.check(runs)
    assert differences["fp32"] < 1e-5
    times = inference_latency.timed(runs, args)
    text = inference_latency.table(times, dict.fromkeys(times, 2**20), differences)
    assert len(text.splitlines()) == 4


def test_inference_latency_refuses_other_results():
    runs = {"plain": lambda: torch.zeros(1), "fp32": lambda: torch.ones(1)}
    with pytest.raises(SystemExit, match="fp32 differs from plain by 1.0000"):
        inference_latency.check(runs)


def test_startup(tmp_path):
    startup.make_pictures(tmp_path)
    assert all(arguments for arguments in startup.commands(tmp_path).values())
    rows = startup.measure({startup.FIRST: ["-c", "pass"]}, 1)
    assert len(startup.table(rows).splitlines()) == 3
    with pytest.raises(RuntimeError, match="SystemExit|no-such|can't open"):
        startup.once(["no-such.py"])
