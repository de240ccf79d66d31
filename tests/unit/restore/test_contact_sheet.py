"""Whether a sheet can be written is known before the work, and it replaces no picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gdpo_sr.restore.contact_sheet import check_sheet, write_sheet
from gdpo_sr.restore.plan import Job
from gdpo_sr.types import ImageError, OptionError
from gdpo_sr.utils.image_io import write_image


def jobs(folder: Path, count: int = 1) -> list[Job]:
    made = [Job(folder / f"{n}.png", folder / "out" / f"{n}.png") for n in range(count)]
    made[0].source.write_bytes(b"a picture")
    return made


def test_a_new_picture_is_fine(tmp_path: Path):
    check_sheet(tmp_path / "sheet.png", jobs(tmp_path))


def test_an_input_a_result_or_a_folder_is_refused(tmp_path: Path):
    """`--preview photos/a.png` wrote the sheet over the user's original."""
    work = jobs(tmp_path)
    (tmp_path / "link.png").symlink_to(work[0].source)
    for taken in (work[0].source, work[0].target, tmp_path / "link.png"):
        with pytest.raises(OptionError, match="this is an input or a result"):
            check_sheet(taken, work)
    with pytest.raises(OptionError, match="this is a folder"):
        check_sheet(tmp_path, work)
    with pytest.raises(OptionError, match="this is a folder"):
        check_sheet(Path(""), work)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_sheet_is_replaced_and_another_picture_is_not(tmp_path: Path, suffix: str):
    """`--preview` took the place of a photo beside the inputs, or of a result of another run."""
    work = [Job(tmp_path / "a.png", tmp_path / "b.png")]
    for path in (work[0].source, work[0].target):
        write_image(path, torch.rand(3, 8, 8))
    sheet = write_sheet(tmp_path / f"sheet{suffix}", work)
    check_sheet(sheet, work)
    (tmp_path / f"mine{suffix}").write_bytes(b"mine")
    write_image(tmp_path / f"photo{suffix}", torch.rand(3, 8, 8))
    for name in ("mine", "photo"):
        with pytest.raises(OptionError, match="this exists and is no sheet; name a new picture"):
            check_sheet(tmp_path / f"{name}{suffix}", work)


def test_what_its_format_cannot_hold_is_told(tmp_path: Path):
    with pytest.raises(ImageError, match="sheet.txt"):
        check_sheet(tmp_path / "sheet.txt", jobs(tmp_path))
    with pytest.raises(ImageError, match="WEBP holds at most 16383 pixels"):
        check_sheet(tmp_path / "sheet.webp", jobs(tmp_path, 200))
    check_sheet(tmp_path / "sheet.png", jobs(tmp_path, 200))
