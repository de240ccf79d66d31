"""The bounds of a base, what is measured for them, and the crops for the eye."""

from __future__ import annotations

import math
from pathlib import Path

import base_measures
import base_methods as methods
import check_base
import crops
import pytest
import torch

from gdpo_sr.metrics import create_metric
from gdpo_sr.types import DatasetError, OptionError
from gdpo_sr.utils.image_io import list_images, read_image, write_image
from gdpo_sr.utils.panels import GAP


def grained(seed: int, size: int = 128, blur: int = 1) -> torch.Tensor:
    """(3, size, size): noise, blurred by a box."""
    noise = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(seed))
    soft = torch.nn.functional.avg_pool2d(noise, blur, 1, blur // 2, count_include_pad=False)
    return 0.5 + 0.3 * (soft[0] - 0.5).expand(3, -1, -1)


@pytest.mark.parametrize("blur", [1, 3])
def test_a_picture_without_a_grid_has_a_peak_near_one(blur: int):
    on, near = base_measures.grid_energy(grained(0, size=512, blur=blur), 4)
    assert on / near == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("period", [4, 8])
def test_a_grid_is_seen_at_its_period(period: int, axis: int):
    picture = grained(0)
    ticks = (torch.arange(128) % period == 0).float() * 0.15
    pattern = ticks.view(1, -1, 1) if axis == 1 else ticks.view(1, 1, -1)
    on, near = base_measures.grid_energy(picture, period)
    on_grid, near_grid = base_measures.grid_energy(picture + pattern, period)
    assert on_grid > 1.3 * on
    assert on_grid / near_grid > 1.3 * on / near


def test_lines_by_hand():
    """Period 4 of 16 px: lines at 4 and 8 steps; steps 0, 1 and 2 are nearest to the first."""
    found = base_measures._line_distance(16, 4).tolist()
    assert found == [4, 3, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 3]


def test_quality_is_the_mean_over_noises():
    hr = grained(3, 96)[None]
    images = torch.cat([hr * 0.9, grained(5, 96)[None]])
    found = base_measures.Quality()(images, hr)
    for name in ("psnr_y", "niqe"):
        expected = create_metric(name)(images, hr.expand_as(images)).mean()
        assert found[name] == pytest.approx(float(expected), rel=1e-4)


def test_spread_by_hand():
    """Two noises apart by 0.2 on the textured half and by 0.02 on the other: std 0.2 / sqrt 2."""
    hr = grained(1, 200)[None]
    hr[..., 100:] = 0.5
    gap = torch.full((1, 1, 1, 200), 0.2)
    gap[..., 100:] = 0.02
    quality = base_measures.Quality()
    found = base_measures.spread(torch.cat([hr + gap / 2, hr + gap * 1.5]), hr, quality)
    assert found["textured"] == pytest.approx(255 * 0.2 / math.sqrt(2), rel=1e-4)
    assert found["smooth"] == pytest.approx(255 * 0.02 / math.sqrt(2), rel=1e-4)
    hr = base_measures.rounded(hr)
    one = base_measures.spread(torch.cat([hr + 5 / 255, hr + 10 / 255]), hr, quality)
    assert one["psnr_spread"] == pytest.approx(20 * math.log10(2) / math.sqrt(2), rel=1e-3)


def test_bounds_by_hand():
    bounds = check_base.bounds_of("realsr")
    good = {"psnr_y": 25.9, "ssim_y": 0.772, "niqe": 6.4, "piqe": 43.0, "textured": 5.0}
    good |= {"smooth": 2.0, "psnr_spread": 0.1, "grid": 1.1, "peak": 1.1}
    assert check_base.misses(good, bounds) == []
    worse = {name: v * (1.001 if name in check_base.AT_MOST else 0.999) for name, v in good.items()}
    assert check_base.misses(worse, bounds) == list(good)
    assert check_base.misses({"psnr_y": math.nan}, bounds) == []
    row = check_base.cells({"psnr_y": 25.0, "niqe": 6.0}, bounds)
    assert row.startswith("25.00 MISS | - | 6.00 | - |")


def test_means_over_pictures():
    """What a picture has no pixels for is left out; energies are quotients of means."""
    rows = [
        {"smooth": 1.0, "grid": 1.0, "grid_hr": 1.0, "peak": 1.0, "peak_hr": 1.0},
        {"smooth": math.nan, "grid": 3.0, "grid_hr": 7.0, "peak": 1.0, "peak_hr": 3.0},
    ]
    for row in rows:
        row.update(phases=2.0, phases_hr=4.0)
    found = check_base.mean_figures(rows)
    assert found == {"smooth": 1.0, "grid": 0.5, "peak": 0.5, "phases": 0.5}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of which one half is textured, and what somebody else made of them."""
    hr = grained(1, 256)
    hr[..., 128:] = 0.5
    for folder, high, low in (
        ("val", "val", "val_lr"),
        ("realsr", "realsr/HR", "realsr/LR"),
        ("drealsr", "drealsr/HR", "drealsr/LR"),
    ):
        write_image(tmp_path / high / "a.png", hr)
        write_image(tmp_path / low / "a.png", grained(2, 64))
        write_image(tmp_path / "theirs" / folder / "a.png", hr)
    return tmp_path


def options_for(photos: Path, base: Path) -> list[str]:
    theirs = f"--pictures=others={photos / 'theirs'}"
    return [f"tiny={base}", "--photos", str(photos), "--bench", str(photos), theirs]


def test_the_command(photos: Path, base: Path, capsys: pytest.CaptureFixture[str]):
    options = [*options_for(photos, base), "--noises", "2", "--threads", "2"]
    assert check_base.main(options) == 0
    printed = capsys.readouterr().out.splitlines()
    table = [line.split(" | ") for line in printed if line.startswith("| ")]
    assert [row[1] for row in table[1:]] == ["bound", "bicubic", "others", "tiny"] * 3
    others = next(row for row in table if row[1] == "others")
    assert others[3] == "1.0000" and others[6:9] == ["-"] * 3
    assert others[9:] == ["1.00", "1.00", "1.00 |"]  # the original's own energy
    assert all("-" not in row for row in table if row[1] == "tiny")
    assert printed[-1].startswith("tiny: 512x512 on one thread") and "val NIQE" in printed[-1]


def test_pictures_at_a_time_change_no_figure(photos: Path, base: Path, capsys):
    write_image(photos / "val" / "b.png", grained(7, 256))
    write_image(photos / "val_lr" / "b.png", grained(8, 64))
    tables = []
    for threads in ("1", "2"):
        options = ["--photos", str(photos), "--noises", "2", "--threads", threads]
        check_base.main([str(base), *options])
        tables.append([x for x in capsys.readouterr().out.splitlines() if x.startswith("| ")])
    assert tables[0] == tables[1]


def test_crops(photos: Path, base: Path, monkeypatch: pytest.MonkeyPatch):
    places = photos / "crops.yml"
    places.write_text("val: {a: [[0, 8], [96, 96]]}\ndrealsr: {a: [[4, 4]]}\n")
    monkeypatch.setattr(crops, "PLACES", places)
    assert crops.main([str(photos / "out"), *options_for(photos, base)]) == 0
    assert [path.stem for path in list_images(photos / "out")] == ["drealsr", "val"]
    sheet = read_image(photos / "out" / "drealsr.png")
    width = crops.SIDE * crops.ZOOM
    assert sheet.shape[2] == 4 * width + 3 * GAP  # LR, tiny, others, original
    ours, original = sheet[:, -width:, -2 * width - GAP : -width - GAP], sheet[:, -width:, -width:]
    assert torch.equal(ours, original)


@pytest.mark.parametrize(
    ("text", "message"),
    [("val: {a: [[2, 4]]}", "multiples of 4"), ("val: {a: [[100, 0]]}", "leaves")],
)
def test_wrong_places_are_named(photos: Path, base: Path, monkeypatch, text: str, message: str):
    (photos / "crops.yml").write_text(text)
    monkeypatch.setattr(crops, "PLACES", photos / "crops.yml")
    with pytest.raises(OptionError, match=message):
        crops.main([str(photos / "out"), *options_for(photos, base)])


def test_the_places_lie_in_the_example_photos():
    places = crops.read_places(crops.PLACES)["val"]
    photos = {path.stem: read_image(path) for path in list_images(methods.EXAMPLE / "val")}
    assert set(places) == set(photos)
    for stem, found in places.items():
        for left, top in found:
            crops.cut(photos[stem], left, top, crops.SIDE, 1)


@pytest.mark.parametrize("items", [["a"], ["=x"], ["a="], ["a=x", "a=y"]])
def test_names_of_the_command_line(items: list[str]):
    with pytest.raises(OptionError):
        methods.named(items)
    assert methods.named(["a=x", "b"], bare=True) == {"a": "x", "b": "b"}


def test_a_missing_picture_is_named(photos: Path):
    (photos / "theirs" / "val" / "a.png").rename(photos / "theirs" / "val" / "b.png")
    with pytest.raises(DatasetError, match="no picture a; names are those of LR"):
        methods.pictures(photos / "theirs")("val", photos / "val_lr" / "a.png")


def test_names_must_match(photos: Path):
    (photos / "val_lr" / "a.png").rename(photos / "val_lr" / "other.png")
    with pytest.raises(DatasetError, match="no LR picture for a.png"):
        methods.read_pairs(photos / "val", photos / "val_lr", None)
