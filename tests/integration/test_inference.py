"""inference.py on real folders: results, seeds, LoRA, and what goes wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import gdpo_sr
from gdpo_sr.cli import run_main
from gdpo_sr.inference import main
from gdpo_sr.lora import add_lora, save_lora
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.types import CheckpointError, DatasetError, OptionError
from gdpo_sr.utils.image_io import read_image, write_image
from tests.tiny_base import tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures of different sizes and formats."""
    rng = torch.Generator().manual_seed(0)
    folder = tmp_path / "photos"
    for name, size in (("a.png", (12, 16)), ("b.jpg", (9, 7)), ("c.webp", (16, 16))):
        write_image(folder / name, torch.rand(3, *size, generator=rng))
    return folder


@pytest.fixture
def lora_run(base: Path, tmp_path: Path) -> Path:
    """A run folder, as training leaves it, whose LoRA changes the output."""
    unet = OneStepSRPipeline.from_pretrained(base).unet
    rng = torch.Generator().manual_seed(5)
    for parameter in add_lora(unet):
        with torch.no_grad():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))
    save_lora(unet, tmp_path / "run" / "models" / "lora_latest")
    return tmp_path / "run"


def run(source: Path, output: Path, base: Path, *options: str) -> int:
    return main(["-i", str(source), "-o", str(output), "--base", str(base), *options])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_folder(photos: Path, base: Path, tmp_path: Path, capsys):
    assert run(photos, tmp_path / "new" / "out", base) == 0
    names = {path.name: read_image(path).shape for path in (tmp_path / "new" / "out").iterdir()}
    assert names == {"a.png": (3, 48, 64), "b.png": (3, 36, 28), "c.png": (3, 64, 64)}
    progress = capsys.readouterr().err
    assert "3/3" in progress and "image" in progress


def test_noise_depends_on_seed_and_name_alone(photos: Path, base: Path, tmp_path: Path):
    run(photos, tmp_path / "all", base)
    everything = contents(tmp_path / "all")
    run(photos / "c.webp", tmp_path / "one", base)
    assert contents(tmp_path / "one") == {"c.png": everything["c.png"]}
    run(photos, tmp_path / "again", base)
    assert contents(tmp_path / "again") == everything
    run(photos, tmp_path / "other", base, "--seed", "1")
    other = contents(tmp_path / "other")
    assert all(other[name] != everything[name] for name in everything)
    shutil.copy(photos / "c.webp", photos / "d.webp")
    run(photos, tmp_path / "more", base)
    more = contents(tmp_path / "more")
    assert more["c.png"] == everything["c.png"] != more["d.png"]


@pytest.mark.parametrize(
    "options",
    [
        ["--t_add", "500"],
        ["--prompt", "zebra"],
        ["--color_fix", "adain"],
        ["--color_fix", "none"],
        ["--tile", "8", "--tile_overlap", "2"],
    ],
)
def test_options_change_the_result(photos: Path, base: Path, tmp_path: Path, options: list[str]):
    run(photos / "a.png", tmp_path / "usual", base)
    assert run(photos / "a.png", tmp_path / "changed", base, *options) == 0
    usual, changed = contents(tmp_path / "usual"), contents(tmp_path / "changed")
    assert usual.keys() == changed.keys() and usual != changed


def test_scale(photos: Path, base: Path, tmp_path: Path):
    run(photos / "b.jpg", tmp_path / "out", base, "--scale", "1.5")
    assert read_image(tmp_path / "out" / "b.png").shape == (3, 14, 10)


def test_lora_of_a_run(photos: Path, base: Path, lora_run: Path, tmp_path: Path):
    run(photos, tmp_path / "base", base)
    assert run(photos, tmp_path / "tuned", base, "--lora", str(lora_run)) == 0
    adapter = lora_run / "models" / "lora_latest"
    assert run(photos, tmp_path / "same", base, "--lora", str(adapter)) == 0
    tuned = contents(tmp_path / "tuned")
    assert tuned != contents(tmp_path / "base") and tuned == contents(tmp_path / "same")


def test_lora_of_another_architecture(photos: Path, lora_run: Path, tmp_path: Path):
    wide = tiny_base(tmp_path / "wide", channels=(24, 32))
    with pytest.raises(CheckpointError, match="use the base that it was trained on"):
        run(photos, tmp_path / "out", wide, "--lora", str(lora_run))
    assert not (tmp_path / "out").exists()


def test_no_lora_there(photos: Path, base: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="nowhere' holds no LoRA"):
        run(photos, tmp_path / "out", base, "--lora", str(tmp_path / "nowhere"))


def test_bad_pictures_do_not_stop_the_others(photos: Path, base: Path, tmp_path: Path, capsys):
    content = (photos / "a.png").read_bytes()
    (photos / "a.png").write_bytes(content[: len(content) // 2])
    (photos / "b.jpg").write_bytes(b"")
    assert run(photos, tmp_path / "out", base) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c.png"]
    errors = capsys.readouterr().err
    assert "error: a.png: cannot read" in errors and "error: b.jpg: cannot read" in errors
    assert errors.splitlines()[-1] == "error: 2 of 3 failed: a.png, b.jpg"


def test_memory_of_the_device(
    photos: Path, base: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    def full(*args, **options):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(OneStepSRPipeline, "__call__", full)
    assert run(photos / "a.png", tmp_path / "out", base) == 1
    assert "a.png: the device has too little memory; give --tile" in capsys.readouterr().err


def no_model(*args, **options):
    raise AssertionError("the model was loaded before the arguments were checked")


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OneStepSRPipeline, "from_pretrained", no_model)


@pytest.mark.usefixtures("unloadable")
class TestBeforeTheModelIsLoaded:
    def test_empty_folder(self, base: Path, tmp_path: Path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(DatasetError, match="no picture in the folder .*empty"):
            run(tmp_path / "empty", tmp_path / "out", base)
        assert not (tmp_path / "out").exists()

    def test_missing_folder(self, base: Path, tmp_path: Path):
        with pytest.raises(DatasetError, match="no such file or folder: .*nowhere"):
            run(tmp_path / "nowhere", tmp_path / "out", base)

    def test_same_stems(self, photos: Path, base: Path, tmp_path: Path):
        shutil.copy(photos / "a.png", photos / "a.jpg")
        with pytest.raises(DatasetError, match="a.jpg and .*a.png would both become .*a.png"):
            run(photos, tmp_path / "out", base)

    def test_results_would_replace_the_input(self, photos: Path, base: Path):
        with pytest.raises(OptionError, match="a.png is an input; choose another"):
            run(photos, photos, base)

    def test_output_is_a_file(self, photos: Path, base: Path, tmp_path: Path):
        (tmp_path / "file").touch()
        for output in (tmp_path / "file", tmp_path / "file" / "out"):
            with pytest.raises(OptionError, match="file is a file; give a folder"):
                run(photos, output, base)

    def test_bad_values(self, photos: Path, base: Path, tmp_path: Path):
        for options in (["--scale", "0"], ["--tile", "16"]):
            with pytest.raises(OptionError, match=f"{options[0][2:]} = {options[1]}"):
                run(photos, tmp_path / "out", base, *options)


def test_t_add_outside_the_schedule(photos: Path, base: Path, tmp_path: Path):
    with pytest.raises(OptionError, match="t_add = 1000: choose an integer in 0 .. 999"):
        run(photos, tmp_path / "out", base, "--t_add", "1000")
    assert not (tmp_path / "out").exists()


def test_unknown_base_is_one_line(photos: Path, tmp_path: Path, capsys):
    arguments = ["-i", str(photos), "-o", str(tmp_path / "out"), "--base", "minni"]
    assert run_main(main, arguments) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: base 'minni' is no folder and no hub id: "
        "use 'mini', an existing folder or 'owner/name'"
    ]


def test_public_names():
    assert gdpo_sr.OneStepSRPipeline is OneStepSRPipeline
    assert {"OneStepSRPipeline", "__version__"} <= set(dir(gdpo_sr))
    with pytest.raises(AttributeError, match="OneStepPipeline"):
        gdpo_sr.OneStepPipeline  # noqa: B018 - the access is the test
