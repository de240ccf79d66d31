"""What is printed does not steer the terminal."""

from __future__ import annotations

import os

from gdpo_sr.utils.text import printable


def test_printable():
    text = printable(f"ü\x1b[2J {os.fsdecode(bytes([0xE9]))}\nnext")
    assert text == "ü\\x1b[2J \\udce9\nnext"
    text.encode("utf-8")
