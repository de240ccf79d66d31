"""The walk of an option from the options file to the last line, as docs/method.md lists it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gdpo_sr.config.load import load_options

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([a-z_.]+)` \| (`gdpo_sr/[^|]+) \| `([A-Za-z_.]+)`", PAGE, re.MULTILINE)


def test_the_options_that_the_page_must_walk():
    names = [option.rpartition(".")[2] for option, _, _ in ROWS]
    assert names == ["group_size", "t_add", "cell_size", "omega"]


@pytest.mark.parametrize(("option", "files", "end"), ROWS, ids=[row[0] for row in ROWS])
def test_every_file_has_the_option_under_its_name(option: str, files: str, end: str):
    """And the last one has the function where it ends."""
    value = load_options(ROOT / "options" / "gdpo_sr.yml")
    for key in option.split("."):
        value = getattr(value, key)  # an AttributeError: there is no such option
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in re.findall("`(.+?)`", files)]
    assert len(texts) > 1
    assert all(re.search(rf"\b{option.rpartition('.')[2]}\b", text) for text in texts)
    assert re.search(rf"def {end.rpartition('.')[2]}\(", texts[-1])
