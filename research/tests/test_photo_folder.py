"""Photographs of a folder with a table of its own, and the credits of what was taken."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import collect_photos
import credits as photo_credits
import pytest
from PIL import Image
from test_collect_photos import jpeg, photo, read_csv

from gdpo_sr.types import DatasetError

HEAD = "file,width,height,source,path,author,licence,licence_source,sharpness,tags"


def row(file: str, author: str = "Ann", licence: str = "CC-BY-4.0") -> str:
    return f"{file},640,560,some repository,img/{file},{author},{licence},LICENSE,1.0,rocks"


def write_folder(folder: Path, rows: list[str]) -> Path:
    """Pictures named in rows (number n of them is photo(n)) and photos.csv."""
    folder.mkdir()
    for number, line in enumerate(rows):
        (folder / line.split(",")[0]).write_bytes(jpeg(photo(number, (320, 280))))
    (folder / "photos.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    return folder


def collect(folder: Path, *options: str) -> tuple[Path, dict[str, str]]:
    """Where the photographs went, and the reasons against the others."""
    out = folder.parent / "out"
    assert collect_photos.main([str(out), "--photos", str(folder), *options]) == 0
    return out, {line["path"]: line["reason"] for line in read_csv(out / "left_out.csv")}


def test_every_twentieth_is_held_out_and_files_stay_as_they_are(tmp_path: Path):
    rows = [row(f"{number:03}.jpg") for number in range(22)]
    rows[3] = row("003.jpg", author="")  # left out, and yet counted
    folder = write_folder(tmp_path / "photos", rows[::-1])
    out, left = collect(folder)
    assert list(left) == ["003.jpg"]
    assert sorted(path.name for path in (out / "held_out").iterdir()) == ["000.jpg", "020.jpg"]
    taken = sorted((out / "train").iterdir())
    assert len(taken) == 19
    assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in taken)
    credits = read_csv(out / "credits.csv")
    assert [line["stem"] for line in credits] == sorted(line["stem"] for line in credits)
    assert credits[1]["package"] == "some repository" and credits[1]["licence"] == "CC-BY-4.0"


def test_what_is_left_out_is_said(tmp_path: Path):
    rows = [
        row("good.jpg"),
        row("nc.jpg", licence="CC-BY-NC-4.0"),
        row("nobody.jpg", author=""),
        row("bench.jpg"),
        row("twin.jpg"),
        row("broken.jpg"),
        row("zzz.jpg", author="", licence="CC0-1.0"),
    ]
    folder = write_folder(tmp_path / "photos", rows)
    (folder / "broken.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    shutil.copy(folder / "good.jpg", folder / "without_row.jpg")
    with Image.open(folder / "good.jpg") as image:
        image.resize((200, 175)).save(folder / "twin.jpg")
    bench = tmp_path / "bench"
    bench.mkdir()
    with Image.open(folder / "bench.jpg") as image:
        image.resize((200, 175)).save(bench / "hr.png")
    out, left = collect(folder, "--apart", str(bench))
    assert left.pop("broken.jpg").startswith("cannot read")
    assert left == {
        "nc.jpg": "licence CC-BY-NC-4.0 is not one of the free ones",
        "nobody.jpg": "no author found, whom licence CC-BY-4.0 asks to name",
        "bench.jpg": "like bench/hr.png",
        "twin.jpg": "like good.jpg",
        "without_row.jpg": "no row in photos.csv",
    }
    assert [line["stem"] for line in read_csv(out / "credits.csv")] == ["good", "zzz"]


def test_validation_photos_are_never_taken(tmp_path: Path):
    folder = write_folder(tmp_path / "photos", [row("a.jpg"), row("other.jpg")])
    shutil.copy(collect_photos.VALIDATION / "astronaut.jpg", folder / "a.jpg")
    assert collect(folder)[1] == {"a.jpg": "like val/astronaut.jpg"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "photos.csv: no such file"),
        ("file,author\na.jpg,Ann\n", "no column source, path, licence, licence_source"),
        ("\n".join([HEAD, row("a.jpg"), row("a.jpg")]), "a.jpg stands in two rows"),
        ("\n".join([HEAD, row("a.jpg", licence="none")]), "none of 1 pictures may be taken: lic"),
        ("\n".join([HEAD, row("../a.jpg")]), "none of 2 pictures may be taken: not a file name"),
    ],
)
def test_wrong_tables_are_named(tmp_path: Path, table: str | None, message: str):
    folder = write_folder(tmp_path / "photos", [row("a.jpg")])
    (folder / "photos.csv").unlink() if table is None else (folder / "photos.csv").write_text(table)
    with pytest.raises(DatasetError, match=message):
        collect(folder)


def test_credits(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    table = tmp_path / "credits.csv"
    with table.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["stem", "split", "package", "path", "author", "licence"])
        writer.writerow(["b", "train", "repo", "b.jpg", "Ann | Bob", "CC-BY-4.0"])
        writer.writerow(["a", "train", "repo", "a.jpg", "", "CC0-1.0"])
        writer.writerow(["h", "held_out", "repo", "h.jpg", "Eve", "CC0-1.0"])
        writer.writerow(["v", "val", "repo", "v.jpg", "Eve", "CC0-1.0"])
    assert photo_credits.main([str(table), str(table)]) == 0
    printed = capsys.readouterr().out
    trained, chosen = printed.split("### ")[1:]
    assert trained.splitlines()[2] == "2: CC0-1.0 1, CC-BY-4.0 1."
    assert trained.splitlines()[6:8] == [
        "| a | not named | CC0-1.0 | repo | a.jpg |",
        "| b | Ann \\| Bob | CC-BY-4.0 | repo | b.jpg |",
    ]
    assert "| h | Eve |" in chosen and "v.jpg" not in printed
    with pytest.raises(DatasetError, match="no table of credits"):
        photo_credits.main([str(tmp_path / "none.csv")])
