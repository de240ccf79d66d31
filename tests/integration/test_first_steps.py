"""The notebook runs from top to bottom, outside of a notebook."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import torch

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "first_steps.ipynb"


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_cells_hold_no_results():
    """What they show is of the machine and the version that ran them."""
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_the_notebook_runs(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(NOTEBOOK.parent)  # as Jupyter does
    script = tmp_path / "first_steps.py"
    script.write_text("\n\n".join(code_cells()), encoding="utf-8")
    found = runpy.run_path(str(script))
    assert found["restored"].size == found["original"].size == (192, 192)
    assert found["group"].shape == (4, 3, 192, 192)
    assert found["unsure"].size == (192, 192) and found["spread"].max() > 0
    assert abs(float(found["advantages"].sum())) < 1e-3
    assert found["advantages"].argmax() == found["scores"].argmax()
    assert not torch.equal(found["after"], found["before"])
    assert capsys.readouterr().out.count("PSNR-Y") >= 4
