"""inference.py on real folders: results, seeds, LoRA, and what goes wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gdpo_sr
from benchmarks.odd_inputs import SIZES, has_alpha, make_pictures
from gdpo_sr.checkpoints.lora import add_lora, save_lora
from gdpo_sr.cli import run_main
from gdpo_sr.inference import main
from gdpo_sr.metrics.registry import create_metric
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.pipelines.tiled_restoration import TileRestorer
from gdpo_sr.restore import manifest
from gdpo_sr.restore.restore_folder import noise_seeds
from gdpo_sr.types import CheckpointError, DatasetError, OptionError
from gdpo_sr.utils.image_decode import decode
from gdpo_sr.utils.image_io import read_image, write_image, write_pixels
from tests.tiny_base import tiny_base


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
    """The results, without the manifest, by their place in the tree."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.name != manifest.NAME}


def records(folder: Path) -> dict[str, dict]:
    """Lines of the manifest by file name."""
    return {Path(record["file"]).name: record for record in manifest.read(folder)}


def test_folder(photos: Path, base: Path, tmp_path: Path, capsys):
    assert run(photos, tmp_path / "new" / "out", base) == 0
    results = (tmp_path / "new" / "out").glob("*.png")
    names = {path.name: read_image(path).shape for path in results}
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
    assert list(contents(tmp_path / "out")) == ["c.png"]
    assert [r["status"] for r in records(tmp_path / "out").values()] == ["failed", "failed", "done"]
    errors = capsys.readouterr().err
    assert "error: a.png: cannot read" in errors and "error: b.jpg: cannot read" in errors
    assert errors.splitlines()[-1] == "error: 2 of 3 failed: a.png, b.jpg"


def test_memory_of_the_device(
    photos: Path, base: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    def full(*args, **options):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(TileRestorer, "restore", full)
    assert run(photos / "a.png", tmp_path / "out", base) == 1
    assert "a.png: too little memory for the whole picture" in capsys.readouterr().err


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
        for options, words in (
            (["--scale", "0"], "scale = 0"),
            (["--tile", "16"], "tile = 16"),
            (["--candidates", "3"], "--candidates 3: say what to do with them"),
            (["--uncertainty"], "need --candidates 2 or more"),
            (["--candidates", "2", "--mean", "--select", "piqe"], "exclude each other"),
            (["--bit_depth", "16", "--format", "jpg"], "jpg has 8 bits; use png or tif"),
            (["--quality", "0"], "--quality 0"),
        ):
            with pytest.raises(OptionError, match=words):
                run(photos, tmp_path / "out", base, *options)


def test_t_add_outside_the_schedule(photos: Path, base: Path, tmp_path: Path):
    with pytest.raises(OptionError, match="t_add = 1000: choose an integer in 0 .. 999"):
        run(photos, tmp_path / "out", base, "--t_add", "1000")
    assert not (tmp_path / "out").exists()


def test_sizes(photos: Path, base: Path, tmp_path: Path):
    """b.jpg has 7x9 pixels; every asked size is met exactly, other shapes by cropping."""
    for options, size in (
        (["--scale", "2.6"], (23, 18)),
        (["--long_side", "50"], (50, 39)),
        (["--size", "64x33"], (33, 64)),
        (["--size", "5x3"], (3, 5)),
    ):
        run(photos / "b.jpg", tmp_path / "out", base, "--overwrite", *options)
        assert read_image(tmp_path / "out" / "b.png").shape == (3, *size), options


def test_trees_and_patterns(photos: Path, base: Path, tmp_path: Path):
    (photos / "deep" / "er").mkdir(parents=True)
    shutil.copy(photos / "b.jpg", photos / "deep" / "er" / "b.jpg")
    run(photos, tmp_path / "tree", base, "--recursive")
    tree = contents(tmp_path / "tree")
    assert set(tree) == {"a.png", "b.png", "c.png", "deep/er/b.png"}
    run(photos / "**" / "*.jpg", tmp_path / "pattern", base)
    assert contents(tmp_path / "pattern") == {k: tree[k] for k in ("b.png", "deep/er/b.png")}
    # results inside the input folder are not restored again
    assert run(photos, photos / "out", base, "--recursive") == 0
    assert run(photos, photos / "out", base, "--recursive", "--overwrite") == 0
    assert set(contents(photos / "out")) == set(tree)


def test_what_exists_is_skipped(photos: Path, base: Path, tmp_path: Path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"mine")
    assert run(photos, tmp_path / "out", base) == 0
    assert "1 of 3 exist already" in capsys.readouterr().out
    assert contents(tmp_path / "out")["a.png"] == b"mine"
    run(photos, tmp_path / "out", base, "--overwrite")
    assert contents(tmp_path / "out")["a.png"] != b"mine"


def test_batches_and_processes_share_the_noise(photos: Path, base: Path, tmp_path: Path):
    """Pictures of one size that are not neighbours by name are restored together."""
    shutil.copy(photos / "a.png", photos / "z.png")
    run(photos, tmp_path / "single", base)
    run(photos, tmp_path / "batch", base, "--batch", "3")
    assert set(contents(tmp_path / "single")) == set(contents(tmp_path / "batch"))
    for name in contents(tmp_path / "single"):
        single, batch = (read_image(tmp_path / kind / name) for kind in ("single", "batch"))
        assert (single - batch).abs().max() < 1.5 / 255  # the same noise; rounding may differ


def test_manifest(photos: Path, base: Path, tmp_path: Path):
    run(photos, tmp_path / "out", base, "--seed", "5", "--tile", "8", "--tile_overlap", "2")
    record = records(tmp_path / "out")["b.jpg"]
    assert record["input"] == {"size": [7, 9], "mode": "RGB", "bits": 8}
    assert (record["size"], record["seed"], record["status"]) == ([28, 36], 5, "done")
    assert record["tile"] == 8 and record["tiles"] == 2 and record["seconds"] > 0


def test_candidates(photos: Path, base: Path, tmp_path: Path):
    """The first is the plain result; the mean lies between; the best has the best score."""
    run(photos / "a.png", tmp_path / "one", base)
    several = ["--candidates", "4"]
    run(photos / "a.png", tmp_path / "map", base, *several, "--uncertainty")
    first = contents(tmp_path / "one")["a.png"]
    assert contents(tmp_path / "map")["a.png"] == first
    heat = read_image(tmp_path / "map" / "uncertainty" / "a.png")
    assert heat.shape == (3, 48, 64) and heat.std() > 0.05
    assert records(tmp_path / "map")["a.png"]["spread"] > 0
    run(photos / "a.png", tmp_path / "mean", base, *several, "--mean")
    mean = read_image(tmp_path / "mean" / "a.png")
    assert mean.std() < read_image(tmp_path / "one" / "a.png").std()
    run(photos / "a.png", tmp_path / "best", base, *several, "--select", "piqe")
    record = records(tmp_path / "best")["a.png"]
    scores = []
    seeds = noise_seeds(0, "a.png", 4)
    assert seeds[:1] == noise_seeds(0, "a.png", 1) and 0 <= record["candidate"] < 4
    metric = create_metric("piqe")
    for name in ("one", "best"):
        scores.append(float(metric(read_image(tmp_path / name / "a.png")[None])))
    assert scores[1] <= scores[0] and record["metric"] == pytest.approx(-scores[1], abs=1e-3)


def test_select_needs_a_metric_without_reference(photos: Path, base: Path, tmp_path: Path):
    with pytest.raises(OptionError, match="--select psnr: it needs a reference"):
        run(photos, tmp_path / "out", base, "--candidates", "2", "--select", "psnr")


@pytest.mark.parametrize("output", ["png", "tif", "jpg", "webp", "bmp"])
def test_odd_inputs(base: Path, tmp_path: Path, output: str):
    """Every format, mode and size in; what each result format can hold is kept."""
    make_pictures(tmp_path / "in", SIZES if output == "png" else SIZES[:1] + SIZES[2:3])
    assert run(tmp_path / "in", tmp_path / "out", base, "--format", output) == 1
    found = records(tmp_path / "out")
    failed = {name for name, record in found.items() if record["status"] == "failed"}
    assert failed == {"png_empty.png", "jpg_cut.jpg"}
    for name, record in found.items():
        if name in failed:
            continue
        width, height = record["input"]["size"]
        out = decode(record["output"])
        assert out.pixels.shape[:2] == (4 * height, 4 * width), name
        assert out.bits == (record["input"]["bits"] if output in ("png", "tif") else 8), name
        can_alpha = output in ("png", "tif", "webp")
        kept = out.pixels.shape[2] in (2, 4)
        assert kept is (can_alpha and has_alpha(record["input"]["mode"], name)), name
    assert found["jpg_rotated_40x25.jpg"]["size"] == [100, 160]


def test_16_bit_results_use_their_bits(base: Path, tmp_path: Path):
    """Not 8 bits times 257: the low bytes take most values. `--bit_depth` overrides."""
    make_pictures(tmp_path / "in")
    source = tmp_path / "in" / "png_RGB_16_40x25.png"
    run(source, tmp_path / "deep", base)
    result = decode(tmp_path / "deep" / source.name)
    values = np.rint(result.pixels * 65535).astype(int)
    assert result.bits == 16 and len(np.unique(values % 257)) > 200
    run(source, tmp_path / "flat", base, "--bit_depth", "8")
    assert decode(tmp_path / "flat" / source.name).bits == 8
    run(tmp_path / "in" / "jpg_RGB_40x25.jpg", tmp_path / "raised", base, "--bit_depth", "16")
    assert decode(tmp_path / "raised" / "jpg_RGB_40x25.png").bits == 16


def test_hidden_colours_do_not_change_the_result(base: Path, tmp_path: Path):
    """A disc on transparent black or transparent white: one result where it can be seen."""
    y, x = np.mgrid[0:24, 0:24]
    alpha = (((y - 12) ** 2 + (x - 12) ** 2) < 64).astype(np.uint8) * 255
    (tmp_path / "in").mkdir()
    results = []
    for hidden in (0, 255):
        pixels = np.where(alpha[..., None] > 0, np.uint8([200, 60, 30]), np.uint8(hidden))
        write_pixels(tmp_path / "in" / "a.png", np.dstack([pixels, alpha]).astype(np.uint8))
        run(tmp_path / "in", tmp_path / str(hidden), base)
        results.append(contents(tmp_path / str(hidden))["a.png"])
    assert results[0] == results[1]


def test_interrupted(photos: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C in the second picture: the first is complete or absent, nothing half-written."""
    restore, calls = TileRestorer.restore, []

    def stop(self, *args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return restore(self, *args)

    monkeypatch.setattr(TileRestorer, "restore", stop)
    arguments = ["-i", str(photos), "-o", str(tmp_path / "out"), "--base", str(base)]
    assert run_main(main, arguments) == 130
    files = contents(tmp_path / "out") if (tmp_path / "out").exists() else {}
    assert set(files) <= {"a.png"}
    for name in files:
        read_image(tmp_path / "out" / name)


@pytest.mark.slow
def test_two_processes(photos: Path, base: Path, tmp_path: Path):
    """Processes share the folder; a bad file fails every one of them, after all is done."""
    (photos / "bad.png").write_bytes(b"no picture")
    run(photos, tmp_path / "one", base)
    launcher = Path(__file__).parents[2] / "inference.py"
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", launcher]
    words += ["-i", photos, "-o", tmp_path / "two", "--base", base]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode != 0 and "error: 1 of 4 failed: bad.png" in done.stderr
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert len(manifest.read(tmp_path / "two")) == 4


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
