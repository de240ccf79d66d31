"""scripts/benchmark.py from folders in the published layouts to tables and reports."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch

from gdpo_sr.metrics import PROTOCOLS
from gdpo_sr.types import DatasetError, OptionError
from gdpo_sr.utils.image_io import list_images, read_image, write_image

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmark.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    """The script's `main`; the model is nearest-neighbour enlargement with a seeded grain."""

    def fake_inference(argv: list[str]) -> int:
        options = dict(zip(argv[::2], argv[1::2], strict=False))
        assert "--overwrite" in argv and options["--lora"] == "run"
        generator = torch.Generator().manual_seed(int(options["--seed"]))
        for path in list_images(options["-i"]):
            image = read_image(path).repeat_interleave(4, 1).repeat_interleave(4, 2)
            noise = 0.02 * torch.randn(image.shape, generator=generator)
            write_image(Path(options["-o"]) / path.name, (image + noise).clamp(0, 1))
        return 0

    monkeypatch.setattr("gdpo_sr.inference.main", fake_inference)
    return runpy.run_path(str(SCRIPT))["main"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two sets of two pictures, each in a layout that was published."""
    generator = torch.Generator().manual_seed(0)
    for name, lr, hr in (("RealSR", "test_LR", "test_HR"), ("DIV2K_V2_val", "lq", "gt")):
        for picture in ("a", "b"):
            small = torch.rand(3, 24, 24, generator=generator)
            write_image(tmp_path / "data" / name / lr / f"{picture}.png", small)
            large = small.repeat_interleave(4, 1).repeat_interleave(4, 2)
            write_image(tmp_path / "data" / name / hr / f"{picture}.png", large)
    return tmp_path / "data"


def test_sets_to_tables_and_reports(benchmark, data: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "offline", ("psnr_y", "gmsd"))
    out = tmp_path / "out"
    options = ["--data", data, "-o", out, "--lora", "run", "--name", "gdpo", "--seeds", 0, 1]
    assert benchmark([str(o) for o in [*options, "--protocol", "offline"]]) == 0
    for name in ("RealSR", "DIV2K_V2_val"):
        report = out / name / "report"
        assert (report / "index.html").is_file() and (report / "table.tex").is_file()
        content = json.loads((report / "scores.json").read_text())
        assert [len(runs) for runs in content["methods"].values()] == [1, 2]
        assert content["summary"]["baseline"] == "bicubic"
    table = (out / "table.md").read_text()
    assert "## RealSR" in table and "## DIV2K_V2_val" in table and "| gdpo | 2 |" in table


def test_what_is_not_there_is_named(benchmark, data: Path, tmp_path: Path):
    options = ["-o", str(tmp_path / "out"), "--data"]
    with pytest.raises(DatasetError, match="no folder with test_LR and test_HR"):
        benchmark([*options, str(tmp_path)])
    with pytest.raises(DatasetError, match="DRealSR: not in .*there are DIV2K_V2_val, RealSR"):
        benchmark([*options, str(data), "--sets", "DRealSR"])
    with pytest.raises(OptionError, match="the baseline's"):
        benchmark([*options, str(data), "--name", "bicubic"])
