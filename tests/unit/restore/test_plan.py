"""Names of results: nothing is overwritten, nothing shared, nothing outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from gdpo_sr.restore.plan import Naming, plan
from gdpo_sr.types import DatasetError, OptionError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """a.png, b.jpg, deep/a.png."""
    folder = tmp_path / "in"
    for name in ("a.png", "b.jpg", "deep/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)
    return folder


def targets(jobs, output: Path) -> list[str]:
    return [job.target.relative_to(output).as_posix() for job in jobs]


def test_tree(tree: Path, tmp_path: Path):
    jobs = plan([str(tree)], str(tmp_path / "out"), recursive=True)
    assert targets(jobs, tmp_path / "out") == ["a.png", "b.png", "deep/a.png"]
    assert not (tmp_path / "out").exists() and jobs[0].heat_map is None


def test_same_format_and_ending(tree: Path, tmp_path: Path):
    Image.new("P", (4, 4)).save(tree / "c.gif")
    jobs = plan([str(tree)], str(tmp_path / "out"), Naming("", "_x4"))
    assert targets(jobs, tmp_path / "out") == ["a_x4.png", "b_x4.jpg", "c_x4.png"]


def test_two_names_that_become_one(tree: Path, tmp_path: Path):
    Image.new("RGB", (4, 4)).save(tree / "b.png")
    arguments = [str(tree)], str(tmp_path / "out")
    with pytest.raises(DatasetError, match=r"b\.jpg and .*b\.png would both become .*b\.png"):
        plan(*arguments)
    jobs = plan(*arguments, Naming(keep_both=True, ending="_x4", heat_maps=True))
    names = ["a_x4.png", "b_jpg_x4.png", "b_png_x4.png"]
    assert sorted(targets(jobs, tmp_path / "out")) == names
    assert sorted(job.heat_map.name for job in jobs) == names


def test_two_folders_that_share_a_name(tree: Path, tmp_path: Path):
    with pytest.raises(DatasetError, match="in/a.png and .*deep/a.png would both become"):
        plan([str(tree), str(tree / "deep")], str(tmp_path / "out"))


@pytest.mark.parametrize("source", ["in", "in/a.png", "in/*.png"])
def test_originals_are_not_replaced(tree: Path, tmp_path: Path, source: str):
    with pytest.raises(OptionError, match="in/a.png is an input"):
        plan([str(tmp_path / source)], str(tree))


def test_a_source_of_another_place_is_not_replaced(tree: Path):
    """deep/c.jpg would become in/c.png, which is the source of in/c_x.png."""
    Image.new("RGB", (4, 4)).save(tree / "c.png")
    (tree / "deep" / "a.png").rename(tree / "deep" / "c.png")
    (tree / "link.png").symlink_to(tree / "c.png")
    with pytest.raises(OptionError, match="in/(c|link).png is an input"):
        plan([str(tree / "link.png"), str(tree / "deep")], str(tree))


def test_results_beside_their_sources_would_be_sources(tree: Path):
    (tree / "a.png").unlink()
    with pytest.raises(OptionError, match="this is the input folder; choose another"):
        plan([str(tree)], str(tree))


def test_maps_and_results_of_one_name(tree: Path, tmp_path: Path):
    """A folder of the input that is called as that of the maps."""
    (tree / "deep").rename(tree / "uncertainty")
    arguments = [str(tree)], str(tmp_path / "out")
    assert len(plan(*arguments, recursive=True)) == 3
    with pytest.raises(DatasetError, match="result of .*uncertainty/a.png and the map of .*in/a.p"):
        plan(*arguments, Naming(heat_maps=True), recursive=True)


def test_results_do_not_leave_their_folder(tree: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OptionError, match="out/deep is a link to elsewhere; remove the link"):
        plan([str(tree)], str(tmp_path / "out"), recursive=True)


def test_what_stands_in_the_way_is_told_before_the_work(tree: Path, tmp_path: Path):
    """A folder of the name of a result was skipped as if it were one; a file in the place of a
    folder failed every picture after its restoration.
    """
    out = tmp_path / "out"
    (out / "a.png").mkdir(parents=True)
    with pytest.raises(OptionError, match="out/a.png is a folder, and would be a result; move it"):
        plan([str(tree)], str(out))
    (out / "a.png").rmdir()
    for name, options in (
        ("uncertainty", {"naming": Naming(heat_maps=True)}),
        ("deep", {"recursive": True}),
    ):
        (out / name).write_text("mine")
        with pytest.raises(OptionError, match=f"out/{name}: .*out/{name} is a file"):
            plan([str(tree)], str(out), **options)


def test_a_pattern_in_a_folder_whose_name_has_brackets(tree: Path, tmp_path: Path):
    tree = tree.rename(tmp_path / "in[1]")
    for pattern in ("*.png", "**/a.p*"):
        jobs = plan([f"{tree}/{pattern}"], str(tmp_path / "out"))
        assert targets(jobs, tmp_path / "out")[0] == "a.png"
    assert len(jobs) == 2
    with pytest.raises(DatasetError, match="no picture fits the pattern"):
        plan([f"{tmp_path}/in[2]/*.png"], str(tmp_path / "out"))


def test_links_to_folders_are_followed_once(tree: Path, tmp_path: Path):
    """The same with --recursive and with a pattern; a loop ends."""
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (4, 4)).save(other / "c.png")
    (tree / "a_link").symlink_to(other)
    (tree / "again").symlink_to(tree / "deep")
    (tree / "deep" / "loop").symlink_to(tree)
    expected = ["a.png", "a_link/c.png", "b.png", "deep/a.png"]
    jobs = plan([str(tree)], str(tmp_path / "out"), recursive=True)
    assert targets(jobs, tmp_path / "out") == expected
    jobs = plan([f"{tree}/**/*.*"], str(tmp_path / "out"))
    assert targets(jobs, tmp_path / "out") == expected
    jobs = plan([f"{tree}/*/*.png"], str(tmp_path / "out"))
    assert targets(jobs, tmp_path / "out") == ["a_link/c.png", "again/a.png", "deep/a.png"]


def test_folder_that_cannot_be_looked_into(tree: Path, tmp_path: Path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DatasetError, match="cannot look into the folder .*in: Permission denied"):
        plan([str(tree)], str(tmp_path / "out"), recursive=True)


def test_frames(tree: Path, tmp_path: Path):
    pages = [Image.new("RGB", (4, 4)) for _ in range(2)]
    pages[0].save(tree / "pages.tif", save_all=True, append_images=pages[1:])
    (tree / "bad.tif").write_bytes(b"II*\0 no TIFF")
    jobs = plan([str(tree)], str(tmp_path / "out"), Naming(all_frames=True))
    names = ["a.png", "b.png", "bad.png", "pages_0001.png", "pages_0002.png"]
    assert targets(jobs, tmp_path / "out") == names and jobs[-1].frame == 1
