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

    def test_names_that_stay_the_same(self, photos: Path, base: Path, tmp_path: Path):
        """a.jpg and a.png become a_jpg.png and a_png.png, but the former is there already."""
        shutil.copy(photos / "b.jpg", photos / "a.jpg")
        shutil.copy(photos / "a.png", photos / "a_jpg.png")
        with pytest.raises(DatasetError, match="a.jpg and .*a_jpg.png would both become .*a_jpg"):
            run(photos, tmp_path / "out", base)

    def test_names_are_checked_before_anything_slow(self, photos: Path, base: Path):
        script = "import sys; from gdpo_sr.inference import main; from gdpo_sr.cli import run_main"
        script += f"; run_main(main, ['-i', {str(photos)!r}, '-o', {str(photos)!r}])"
        script += "; assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0 and "a.png is an input" in done.stderr, done.stderr

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
    assert "1 of 3 exist already, no manifest.jsonl says how" in capsys.readouterr().out
    assert contents(tmp_path / "out")["a.png"] == b"mine"
    assert run(photos, tmp_path / "out", base) == 0
    assert "2 of 3 exist already and were skipped" in capsys.readouterr().out
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
        "use 'mini', an existing folder or .safetensors file, or 'owner/name'"
    ]


def test_public_names():
    assert gdpo_sr.OneStepSRPipeline is OneStepSRPipeline
    assert {"OneStepSRPipeline", "__version__"} <= set(dir(gdpo_sr))
    with pytest.raises(AttributeError, match="OneStepPipeline"):
        gdpo_sr.OneStepPipeline  # noqa: B018 - the access is the test


def test_results_of_other_settings_are_made_again(
    photos: Path, base: Path, lora_run: Path, tmp_path: Path, capsys
):
    """The same folder with another LoRA, seed or option said "exists already"."""
    out = tmp_path / "out"
    run(photos, out, base)
    before = contents(out)
    for options, key in (
        (["--lora", str(lora_run)], "lora"),
        (["--lora", str(lora_run), "--lora_scale", "0.5"], "lora"),
        (["--lora", str(lora_run), "--lora_scale", "0.5", "--seed", "1"], "seed"),
        (["--seed", "1", "--t_add", "100"], "lora, t_add"),
    ):
        capsys.readouterr()
        assert run(photos, out, base, *options) == 0
        words = f"3 of 3 were made by other settings ({key}) and are made again"
        assert words in capsys.readouterr().out, key
        assert contents(out) != before, key
        before = contents(out)
        assert run(photos, out, base, *options) == 0
        assert "3 of 3 exist already and were skipped" in capsys.readouterr().out
        assert contents(out) == before
    assert run(photos, out, base, "--skip_existing") == 0
    assert contents(out) == before and "3 of 3 exist already" in capsys.readouterr().out


def test_changed_input_and_lora_are_seen(
    photos: Path, base: Path, lora_run: Path, tmp_path: Path, capsys
):
    """The files themselves count, not their names; the folder may be named otherwise."""
    out, lora = tmp_path / "out", ["--lora", str(lora_run)]
    run(photos, out, base, *lora)
    write_image(photos / "a.png", torch.zeros(3, 8, 8))
    shutil.move(out, tmp_path / "moved")
    run(photos, tmp_path / "moved", base, *lora)
    text = capsys.readouterr().out
    assert "1 of 3 were made by other settings (input)" in text and "2 of 3 exist" in text
    assert read_image(tmp_path / "moved" / "a.png").shape == (3, 32, 32)
    lora_run = lora_run.rename(tmp_path / "renamed")
    lora[1] = str(lora_run)
    run(photos, tmp_path / "moved", base, *lora)
    assert "3 of 3 exist already and were skipped" in capsys.readouterr().out
    weights = lora_run / "models" / "lora_latest" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 64
    weights.write_bytes(content)
    run(photos, tmp_path / "moved", base, *lora)
    assert "3 of 3 were made by other settings (lora)" in capsys.readouterr().out


def test_manifest_records_what_made_a_picture(
    photos: Path, base: Path, lora_run: Path, tmp_path: Path
):
    run(photos / "a.png", tmp_path / "out", base, "--lora", str(lora_run), "--seed", "3")
    record = records(tmp_path / "out")["a.png"]
    made_by = record["made_by"]
    assert made_by["version"] == gdpo_sr.__version__ and made_by["size"] == {"scale": 4}
    assert Path(made_by["lora"]["folder"]) == lora_run / "models" / "lora_latest"
    assert len(made_by["lora"]["sha256"]) == 16 == len(made_by["base"]["sha256"])
    assert record["t_add"] == 250 and record["color_fix"] == "wavelet" and record["seed"] == 3
    assert isinstance(record["prompt"], str) and made_by["tile"] is None


def test_two_kinds_of_one_name(photos: Path, base: Path, tmp_path: Path):
    """One a.jpg beside a.png ended the whole folder."""
    shutil.copy(photos / "b.jpg", photos / "a.jpg")
    assert run(photos, tmp_path / "out", base) == 0
    assert set(contents(tmp_path / "out")) == {"a_jpg.png", "a_png.png", "b.png", "c.png"}
    assert run(photos, tmp_path / "same", base, "--format", "same", "--suffix", "_x4") == 0
    expected = {"a_x4.jpg", "a_x4.png", "b_x4.jpg", "c_x4.webp"}
    assert set(contents(tmp_path / "same")) == expected


def test_metadata_is_kept(base: Path, tmp_path: Path):
    """Camera, time, place and resolution; not the orientation, which is applied."""
    from PIL import Image

    exif = Image.Exif()
    exif[271], exif[274] = "A camera", 6
    exif.get_ifd(0x8769)[0x9003] = "2020:02:03 04:05:06"
    exif.get_ifd(0x8769)[0xA002] = 12
    exif.get_ifd(0x8825)[1] = "N"
    picture = Image.new("RGB", (12, 8))
    for suffix in ("jpg", "tif", "png", "webp"):
        picture.save(tmp_path / f"{suffix}.{suffix}", exif=exif.tobytes(), dpi=(300, 150))
    deep = np.zeros((8, 12, 3), np.uint16)
    write_pixels(tmp_path / "deep.png", deep, exif=exif.tobytes(), dpi=(300, 150))
    for source in ("jpg.jpg", "tif.tif", "png.png", "webp.webp", "deep.png"):
        for form in ("jpg", "png", "tif", "webp"):
            out = tmp_path / f"{source}_{form}"
            assert run(tmp_path / source, out, base, "--format", form) == 0
            with Image.open(out / f"{Path(source).stem}.{form}") as image:
                assert image.size == (32, 48)
                kept = image.getexif()
                assert kept[271] == "A camera" and kept.get(274, 1) == 1, (source, form)
                assert kept.get_ifd(0x8769)[0x9003] == "2020:02:03 04:05:06", (source, form)
                assert 0xA002 not in kept.get_ifd(0x8769) and kept.get_ifd(0x8825)[1] == "N"
                if "webp" not in (form, source.split(".")[1]):
                    assert image.info["dpi"] == pytest.approx((150, 300), abs=0.1), (source, form)
    run(tmp_path / "jpg.jpg", tmp_path / "bare", base, "--strip", "--format", "jpg")
    with Image.open(tmp_path / "bare" / "jpg.jpg") as image:
        assert not dict(image.getexif()) and image.info.get("dpi") in (None, (72, 72))


def test_all_frames(base: Path, tmp_path: Path):
    from PIL import Image

    frames = [Image.new("RGB", (8, 8), (60 * i, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "single.png")
    for name in ("a.tif", "single.png"):
        run(tmp_path / name, tmp_path / "out", base, "--frames", "all")
    names = {"a_0001.png", "a_0002.png", "a_0003.png", "single.png"}
    assert set(contents(tmp_path / "out")) == names
    red = [read_image(tmp_path / "out" / f"a_000{i}.png")[0].mean() for i in (1, 2, 3)]
    assert red[0] < red[1] < red[2]
    run(tmp_path / "a.tif", tmp_path / "first", base)
    assert set(contents(tmp_path / "first")) == {"a.png"}


def test_preview_and_progress(photos: Path, base: Path, tmp_path: Path, capsys):
    sheet = tmp_path / "sheet.png"
    assert run(photos, tmp_path / "out", base, "--preview", str(sheet)) == 0
    captured = capsys.readouterr()
    assert f"preview: {sheet}" in captured.out and "image/s" in captured.err
    image = read_image(sheet)
    assert image.shape == (3, 282, 3 * 492 + 10) and image.std() > 0.1


def test_device_and_dtype(photos: Path, base: Path, tmp_path: Path):
    source = photos / "a.png"
    assert run(source, tmp_path / "out", base, "--device", "cpu", "--dtype", "bfloat16") == 0
    assert records(tmp_path / "out")["a.png"]["made_by"]["precision"] == "bf16"
    for name in ("cuda:99", "toaster"):
        with pytest.raises(OptionError, match=f"--device {name}: not on this machine.*cpu"):
            run(source, tmp_path / "no", base, "--device", name)


def test_too_large_for_the_format_is_told_before_the_work(
    base: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(TileRestorer, "restore", no_model)
    write_image(tmp_path / "a.png", torch.zeros(3, 1, 5000))
    assert run(tmp_path / "a.png", tmp_path / "out", base, "--format", "webp") == 1
    assert "WEBP holds at most 16383 pixels a side, the result has 20000x4" in (
        capsys.readouterr().err
    )
    arguments = ["--format", "jpg", "--scale", "14"]
    assert run(tmp_path / "a.png", tmp_path / "out", base, *arguments) == 1
    assert "JPEG holds at most 65500 pixels a side" in capsys.readouterr().err


def test_long_name_is_one_failed_picture(photos: Path, base: Path, tmp_path: Path, capsys):
    """255 bytes are written; 256 fail, and the others go on."""
    (photos / "a.png").rename(photos / f"{'a' * 251}.png")
    (photos / "b.jpg").rename(photos / f"{'b' * 251}.jpg")
    assert run(photos, tmp_path / "out", base) == 0
    assert len(contents(tmp_path / "out")) == 3
    assert run(photos, tmp_path / "long", base, "--format", "webp") == 1
    assert set(contents(tmp_path / "long")) == {"c.webp"}
    assert "2 of 3 failed" in capsys.readouterr().err


def test_limit_of_pixels(photos: Path, base: Path, tmp_path: Path, capsys):
    assert run(photos, tmp_path / "out", base, "--max_pixels", "200") == 1
    assert set(contents(tmp_path / "out")) == {"a.png", "b.png"}
    assert "c.webp: cannot read" in capsys.readouterr().err
    assert run(photos, tmp_path / "out", base, "--max_pixels", "256") == 0


def test_names_that_are_not_utf8(photos: Path, base: Path, tmp_path: Path):
    name = os.fsdecode(b"caf\xe9.png")
    (photos / "a.png").rename(photos / name)
    assert run(photos, tmp_path / "out", base) == 0
    assert name in records(tmp_path / "out") and name in os.listdir(tmp_path / "out")
    (tmp_path / "out" / manifest.NAME).read_text(encoding="utf-8")


def test_links_are_not_followed_out(photos: Path, base: Path, tmp_path: Path):
    """Neither the manifest, nor a picture, nor a folder of the results."""
    (tmp_path / "out").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "out" / manifest.NAME).symlink_to(tmp_path / "mine.txt")
    with pytest.raises(OptionError, match="manifest.jsonl is a link and is not followed"):
        run(photos, tmp_path / "out", base)
    (tmp_path / "out" / manifest.NAME).unlink()
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "mine.txt")
    assert run(photos, tmp_path / "out", base, "--overwrite") == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "out" / "a.png").is_symlink()


def test_empty_path(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It meant the current folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="an empty path was given"):
        main(["-i", "", "-o", "out", "--base", str(base)])
    with pytest.raises(OptionError, match="-o '': give a folder"):
        main(["-i", ".", "-o", "", "--base", str(base)])


@pytest.mark.parametrize(
    "options, words",
    [
        (("--lora", ""), "--lora '': give a name"),
        (("--unet", ""), "--unet '': give a name"),
        (("--preview", ""), "--preview '': give a name"),
        (("--select", "", "--candidates", "2"), "--select '': give a name"),
        (("--lora_scale", "0.5"), "--lora_scale 0.5 needs --lora"),
        (("--lora_scale", "nan"), "--lora_scale nan needs --lora"),
    ],
)
def test_what_would_be_ignored_is_told(photos: Path, base: Path, tmp_path: Path, options, words):
    """An unset variable in a shell, --lora "$RUN", restored by the base alone."""
    with pytest.raises(OptionError, match=words):
        run(photos, tmp_path / "out", base, *options)
    assert not (tmp_path / "out").exists()


def test_a_result_that_no_memory_holds_is_one_failed_picture(
    photos: Path, base: Path, tmp_path: Path, capsys
):
    size = ["--size", "100000000x99999999"]
    assert run(photos / "a.png", tmp_path / "out", base, *size) == 1
    assert "a.png: there is no memory for a result of 100000000x" in capsys.readouterr().err
