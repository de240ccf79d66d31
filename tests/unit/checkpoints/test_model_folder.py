"""A model written to a folder says nothing of the machine that it was made on."""

from __future__ import annotations

from pathlib import Path

from gdpo_sr.checkpoints.model_folder import save_model_folder
from gdpo_sr.generators.load import load_components


def test_no_path_of_this_machine_is_written(base: Path, tmp_path: Path):
    save_model_folder(load_components(base), tmp_path / "model")
    written = list((tmp_path / "model").rglob("*.json"))
    assert len(written) > 3
    for file in written:
        assert str(base.parent) not in file.read_text(encoding="utf-8"), file
    assert load_components(tmp_path / "model")["prompt"] == load_components(base)["prompt"]
