"""No file of weights runs code, whichever metric reads it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gdpo_sr.metrics.registry import create_metric
from gdpo_sr.metrics.safe_load import weights_only
from gdpo_sr.types import MetricError


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def load_as_others_do(file: Path) -> Any:
    """What a metric's package calls, with whatever function torch holds at the moment."""
    return vars(torch)["load"](str(file), weights_only=False)


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    file = tmp_path / "evil.pth"
    torch.save({"params": Evil(tmp_path / "mark")}, file)
    pickle.loads(pickle.dumps(Evil(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()  # it would
    (tmp_path / "mark").unlink()
    return file


@pytest.mark.parametrize("name", ["brisque", "musiq", "cnniqa", "pieapp", "uranker"])
def test_a_metric_does_not_run_its_file(evil: Path, name: str):
    with pytest.raises(MetricError, match=f"metric '{name}': .*evil.pth' holds more than") as told:
        create_metric(name, allow_download=False, pretrained_model_path=str(evil))
    assert "\n" not in str(told.value)
    assert not (evil.parent / "mark").exists()


def test_a_bare_pickle_is_refused(tmp_path: Path):
    file = tmp_path / "evil.pth"
    file.write_bytes(pickle.dumps(Evil(tmp_path / "mark"), protocol=2))
    with pytest.raises(MetricError), weights_only():
        load_as_others_do(file)
    assert not (tmp_path / "mark").exists()


def test_arrays_numbers_and_safetensors_are_read(tmp_path: Path):
    values = {"a": torch.ones(2), "b": np.arange(3), "c": np.float32(2), "d": [1, "x", None]}
    torch.save(values, tmp_path / "w.pth")
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    with weights_only():
        found = load_as_others_do(tmp_path / "w.pth")
        assert torch.equal(load_as_others_do(tmp_path / "w.safetensors")["a"], torch.ones(2))
    assert np.array_equal(found["b"], values["b"]) and found["c"] == 2
    assert found["d"] == [1, "x", None]


def test_a_metric_reads_its_own_weights(tmp_path: Path):
    """CNNIQA, small and without a backbone: saved weights score as they did."""
    import pyiqa

    torch.manual_seed(0)
    own = pyiqa.create_metric("cnniqa", pretrained=None)
    torch.save({"params": own.net.state_dict()}, tmp_path / "cnniqa.pth")
    file = str(tmp_path / "cnniqa.pth")
    metric = create_metric("cnniqa", allow_download=False, pretrained_model_path=file)
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(metric(image), own(image).flatten().detach())
