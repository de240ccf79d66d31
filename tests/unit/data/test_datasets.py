"""Folders, datasets, the stream of draws and the fixed validation pictures."""

from __future__ import annotations

import logging
import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gdpo_sr.data.draws import generator_for
from gdpo_sr.data.folder import list_photos
from gdpo_sr.data.loader import DrawSampler, make_loader
from gdpo_sr.data.online_dataset import OnlineDataset
from gdpo_sr.data.paired_dataset import PairedDataset
from gdpo_sr.data.validation import make_validation_set
from gdpo_sr.types import DatasetError, ImageError


def save(path: Path, height: int, width: int) -> None:
    """A picture of noise that depends on its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.rand(height, width, 3, generator=generator_for(path.stem))
    Image.fromarray((pixels * 255).to(torch.uint8).numpy()).save(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def photos(tmp_path) -> Path:
    """Five photos, one of them grey, one in a sub-folder."""
    folder = tmp_path / "photos"
    for name, size in [("a.png", (70, 80)), ("b.jpg", (64, 64)), ("c.bmp", (90, 66))]:
        save(folder / name, *size)
    save(folder / "more" / "d.webp", 72, 72)
    Image.fromarray(np.arange(80 * 80, dtype=np.uint8).reshape(80, 80)).save(folder / "e.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture
def pairs(tmp_path) -> tuple[Path, Path]:
    """Three pairs of x4 whose LR is every fourth pixel of HR."""
    for index, (height, width) in enumerate([(64, 80), (80, 64), (96, 96)]):
        hr = tmp_path / "hr" / f"{index}.png"
        save(hr, height, width)
        (tmp_path / "lr").mkdir(exist_ok=True)
        lr = np.asarray(Image.open(hr))[::4, ::4]
        Image.fromarray(lr).save(tmp_path / "lr" / f"{index}.png")
    return tmp_path / "hr", tmp_path / "lr"


def same(one: dict, two: dict) -> bool:
    return one["name"] == two["name"] and torch.equal(one["hr"], two["hr"])


def test_listing(photos, tmp_path):
    assert [p.name for p in list_photos(photos)] == ["a.png", "b.jpg", "c.bmp", "e.png"]
    assert [p.name for p in list_photos(photos, recursive=True)][-1] == "d.webp"
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        with pytest.raises(DatasetError, match=folder):
            list_photos(tmp_path / folder)


def test_online_items(photos):
    dataset = OnlineDataset(photos, 48, seed=1, use_rot=True)
    item = dataset[0]
    assert item["hr"].shape == (3, 48, 48) and item["hr"].is_contiguous()
    assert 0 <= item["hr"].min() and item["hr"].max() <= 1 and item["draw"] == 0
    assert same(item, OnlineDataset(photos, 48, seed=1, use_rot=True, cache=False)[0])
    assert same(dataset[10**9], dataset[10**9])
    different = [not same(dataset[d], OnlineDataset(photos, 48, seed=2)[d]) for d in range(10)]
    assert all(different)


def test_every_epoch_is_a_permutation(photos):
    dataset = OnlineDataset(photos, 48, seed=0)
    epochs = [[dataset[e * 5 + i]["name"] for i in range(5)] for e in range(6)]
    assert all(sorted(names) == ["a", "b", "c", "d", "e"] for names in epochs)
    assert len({tuple(names) for names in epochs}) > 1


def test_crops_come_from_the_photo(tmp_path):
    """Pixel values tell their place: without flips a crop is a window of the gradient."""
    place = np.zeros((100, 120, 3), dtype=np.uint8)
    place[..., 0], place[..., 1] = np.arange(100)[:, None], np.arange(120)[None]
    Image.fromarray(place).save(tmp_path / "p.png")
    dataset = OnlineDataset(tmp_path, 32, seed=3, use_hflip=False)
    corners = set()
    for draw in range(40):
        hr = (dataset[draw]["hr"] * 255).round().int()
        top, left = hr[0, 0, 0].item(), hr[1, 0, 0].item()
        assert hr[0, -1, 0] == top + 31 and hr[1, 0, -1] == left + 31
        corners.add((top, left))
    assert len(corners) > 30
    flipped = OnlineDataset(tmp_path, 32, seed=3)
    directions = [flipped[d]["hr"][1, 0, 0] > flipped[d]["hr"][1, 0, -1] for d in range(40)]
    assert 8 < sum(map(int, directions)) < 32


def test_datasets_and_loader_leave_global_random_state(photos):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    list(islice(make_loader(OnlineDataset(photos, 48, seed=1), 2), 3))
    make_validation_set(photos, None, 4, 48)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_small_and_unreadable_photos_are_reported_once(photos, caplog):
    save(photos / "small.png", 40, 200)
    (photos / "text.jpg").write_text("this is no JPEG")
    (photos / "empty.png").touch()
    with caplog.at_level(logging.WARNING, "gdpo_sr"):
        dataset = OnlineDataset(photos, 64, seed=0)
        names = {dataset[draw]["name"] for draw in range(20)}
    assert names == {"a", "b", "c", "d", "e"}
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert sum("small.png is 200x40" in m and "64 px" in m for m in messages) == 1
    for name in ("text.jpg", "empty.png"):
        assert sum(name in message for message in messages) == 1


def test_truncated_photo_is_reported_once_and_replaced(photos, caplog):
    save(photos / "broken.jpg", 100, 100)
    truncate(photos / "broken.jpg")
    dataset = OnlineDataset(photos, 64, seed=0)
    assert len(dataset) == 6
    with caplog.at_level(logging.WARNING, "gdpo_sr"):
        items = [dataset[draw] for draw in range(18)]
        again = OnlineDataset(photos, 64, seed=0, cache=False)
        caplog.clear()
        assert all(same(items[draw], again[draw]) for draw in range(18))
    assert "broken" not in {item["name"] for item in items}
    assert [("broken.jpg" in r.getMessage()) for r in caplog.records] == [True]


def test_no_usable_photo(tmp_path, photos):
    with pytest.raises(DatasetError, match="128 px"):
        OnlineDataset(photos, 128, seed=0)
    save(tmp_path / "bad" / "x.jpg", 100, 100)
    truncate(tmp_path / "bad" / "x.jpg")
    dataset = OnlineDataset(tmp_path / "bad", 64, seed=0)
    with pytest.raises(DatasetError, match="bad"):
        dataset[0]
    with pytest.raises(DatasetError, match="bad"):
        make_validation_set(tmp_path / "bad", None, 4, 64)


def test_sampler_ranks_share_the_draws_of_one_process():
    whole = list(islice(DrawSampler(6, 0, 1, 6), 18))
    parts = [list(islice(DrawSampler(6, rank, 2, 3), 9)) for rank in range(2)]
    assert whole == list(range(6, 24))
    for step in range(3):
        both = parts[0][3 * step : 3 * step + 3] + parts[1][3 * step : 3 * step + 3]
        assert both == whole[6 * step : 6 * step + 6]
    with pytest.raises(ValueError, match="rank=2"):
        DrawSampler(0, 2, 2, 1)


def test_workers_and_resume_do_not_change_the_stream(photos):
    save(photos / "broken.jpg", 100, 100)
    truncate(photos / "broken.jpg")
    dataset = OnlineDataset(photos, 48, seed=7)
    spawned = list(islice(make_loader(dataset, 2, num_workers=2), 6))
    assert dataset._photos._is_broken.sum() == 1  # seen by a worker, known to all processes
    alone = list(islice(make_loader(dataset, 2), 6))
    resumed = list(islice(make_loader(dataset, 2, start_draw=6), 3))
    for one, two in zip(alone + alone[3:], spawned + resumed, strict=True):
        assert torch.equal(one["hr"], two["hr"]) and one["name"] == two["name"]
        assert torch.equal(one["draw"], two["draw"])
    assert alone[0]["hr"].shape == (2, 3, 48, 48)


def test_two_ranks_see_what_one_process_sees(photos):
    dataset = OnlineDataset(photos, 48, seed=7)
    whole = next(iter(make_loader(dataset, 4)))
    ranks = [next(iter(make_loader(dataset, 2, rank=rank, world=2))) for rank in range(2)]
    assert torch.equal(torch.cat([r["hr"] for r in ranks]), whole["hr"])


def test_whole_pairs(pairs):
    dataset = PairedDataset(*pairs, scale=4)
    items = list(dataset)
    assert [item["name"] for item in items] == ["0", "1", "2"]
    assert items[0]["hr"].shape == (3, 64, 80) and items[0]["lr"].shape == (3, 16, 20)


def test_paired_crops_are_aligned(pairs):
    """LR is every fourth HR pixel, so unflipped crops must satisfy lr == hr[::4]."""
    dataset = PairedDataset(*pairs, scale=4, gt_size=32, seed=1, use_hflip=False)
    for draw in range(12):
        item = dataset[draw]
        assert item["hr"].shape == (3, 32, 32)
        assert torch.equal(item["lr"], item["hr"][:, ::4, ::4])
    flipped = PairedDataset(*pairs, scale=4, gt_size=32, seed=1, use_rot=True)
    for draw in range(12):
        hr, lr = flipped[draw]["hr"], flipped[draw]["lr"]
        windows = [hr[:, i::4, j::4] for i in (0, 3) for j in (0, 3)]
        assert any(torch.equal(lr, window) for window in windows)
        assert same(flipped[draw], flipped[draw])


def test_pair_of_wrong_ratio(pairs):
    save(pairs[1] / "1.png", 20, 20)
    with pytest.raises(DatasetError, match=r"1\.png is 64x80 .* 20x20.*4 times.*80x80"):
        PairedDataset(*pairs, scale=4)


@pytest.mark.parametrize("side", [0, 1])
def test_missing_partner(pairs, side):
    (pairs[side] / "2.png").unlink()
    with pytest.raises(DatasetError, match=r"2\.png has no partner"):
        PairedDataset(*pairs, scale=4)


def test_partner_of_another_format_and_ambiguous_names(pairs):
    Image.open(pairs[1] / "0.png").save(pairs[1] / "0.bmp")
    with pytest.raises(DatasetError, match="share a name"):
        PairedDataset(*pairs, scale=4)
    (pairs[1] / "0.png").unlink()
    assert len(PairedDataset(*pairs, scale=4)) == 3


def test_broken_pair(pairs, caplog):
    truncate(pairs[1] / "2.png")
    dataset = PairedDataset(*pairs, scale=4, gt_size=32)
    with caplog.at_level(logging.WARNING, "gdpo_sr"):
        assert {dataset[draw]["name"] for draw in range(9)} == {"0", "1"}
    assert len(caplog.records) == 1
    with pytest.raises(ImageError, match=r"2\.png"):
        PairedDataset(*pairs, scale=4)[2]


def test_paired_gt_size(pairs):
    with pytest.raises(DatasetError, match="30 is not divisible by scale 4"):
        PairedDataset(*pairs, scale=4, gt_size=30)
    with pytest.raises(DatasetError, match="100 px"):
        PairedDataset(*pairs, scale=4, gt_size=100)


def test_validation_pictures_are_fixed(photos):
    one, two = (make_validation_set(photos, None, 4, 64, seed=0) for _ in range(2))
    other = make_validation_set(photos, None, 4, 64, seed=1)
    assert [pair["name"] for pair in one] == ["a", "b", "c", "e", "d"]
    for a, b, c in zip(one, two, other, strict=True):
        assert a["hr"].shape == (3, 64, 64) and a["lr"].shape == (3, 16, 16)
        assert torch.equal(a["lr"], b["lr"]) and not torch.equal(a["lr"], c["lr"])
        assert torch.equal(a["hr"], c["hr"])


def test_validation_without_gt_size_takes_whole_pictures(photos):
    shapes = {p["name"]: p["hr"].shape for p in make_validation_set(photos, None, 4, None)}
    assert shapes["c"] == (3, 88, 64) and shapes["a"] == (3, 68, 80)


def test_paired_validation(pairs):
    whole = make_validation_set(*pairs, 4, None)
    assert [tuple(p["hr"].shape[1:]) for p in whole] == [(64, 80), (80, 64), (96, 96)]
    for pair in make_validation_set(*pairs, 4, 40) + whole:
        assert torch.equal(pair["lr"], pair["hr"][:, ::4, ::4])
    assert make_validation_set(*pairs, 4, 40)[0]["lr"].shape == (3, 10, 10)
    with pytest.raises(DatasetError, match="not divisible"):
        make_validation_set(*pairs, 4, 42)


@pytest.mark.parametrize("workers", [0, 1])
def test_photos_that_vanish_during_a_run(photos, workers: int):
    """Those that are left go on; with none left the run ends, by one line from a worker, too."""
    dataset = OnlineDataset(photos, 48, seed=0, cache=False)
    batches = iter(make_loader(dataset, 1, num_workers=workers))
    next(batches)
    left = photos / "a.png"
    for path in dataset._photos.paths:
        if path != left:
            path.unlink()
    names = [next(batches)["name"][0] for _ in range(12)]
    assert names[-4:] == ["a"] * 4
    left.unlink()
    with pytest.raises(DatasetError) as caught:
        for _ in range(12):
            next(batches)
    words = str(caught.value)
    assert words.startswith("none of the 5 pictures such as ") and "\n" not in words
    assert "can be read any more: put them back" in words


def test_links_to_folders_of_photos(photos, tmp_path):
    """Followed, each real folder once."""
    save(tmp_path / "more" / "f.png", 64, 64)
    (photos / "link").symlink_to(tmp_path / "more")
    (photos / "loop").symlink_to(photos)
    names = sorted(path.name for path in OnlineDataset(photos, 48, seed=0)._photos.paths)
    assert names == ["a.png", "b.jpg", "c.bmp", "d.webp", "e.png", "f.png"]


def test_photos_of_several_folders_are_put_together(photos, tmp_path):
    save(tmp_path / "other" / "a.png", 80, 64)
    several = OnlineDataset([photos, tmp_path / "other"], 64, seed=1)
    assert len(several) == len(OnlineDataset(photos, 64, seed=1)) + 1
    assert several._photos.paths[-1] == tmp_path / "other" / "a.png"
    assert "a" in {several[draw]["name"] for draw in range(len(several))}
    val = make_validation_set([tmp_path / "other", photos], None, 4, 64)
    assert [pair["name"] for pair in val][:2] == ["a", "a"]


def test_folders_that_hold_the_same_photos_are_refused(photos, tmp_path):
    (tmp_path / "link").symlink_to(photos)
    for other in (photos, photos / "more", tmp_path / "link"):
        with pytest.raises(DatasetError, match="hold the same photos: name only one") as told:
            OnlineDataset([photos, other], 64, seed=1)
        assert str(other) in str(told.value)
    with pytest.raises(DatasetError, match="list of folders of photos is empty"):
        OnlineDataset([], 64, seed=1)


def test_a_missing_one_of_several_folders_is_named(photos, tmp_path):
    with pytest.raises(DatasetError, match=f"no such folder of photos: {tmp_path / 'none'}"):
        OnlineDataset([photos, tmp_path / "none"], 64, seed=1)


def test_several_folders_of_pairs(pairs, tmp_path):
    """Each folder of HR photos has its own of LR photos; names need differ in one folder only."""
    save(tmp_path / "hr2" / "0.png", 64, 64)
    save(tmp_path / "lr2" / "0.png", 16, 16)
    high, low = [pairs[0], tmp_path / "hr2"], [pairs[1], tmp_path / "lr2"]
    data = PairedDataset(high, low, 4)
    assert [data[i]["name"] for i in range(len(data))] == ["0", "1", "2", "0"]
    assert data[3]["hr"].shape[-2:] == (64, 64)
    with pytest.raises(DatasetError, match="2 folders of HR pictures, 1 of LR pictures"):
        PairedDataset(high, low[:1], 4)
    with pytest.raises(DatasetError, match="has no partner named '1'"):
        PairedDataset(high, low[::-1], 4)
