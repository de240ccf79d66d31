"""The page of `gdpo-sr demo` in a headless browser: what a visitor does, and what is loaded."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gdpo_sr.demo.session import Session
from tests.browser import open_browser

pytest.importorskip("gradio", reason="needs pip install 'gdpo-sr[demo]'")
SECONDS = 240


@pytest.fixture
def session(base: Path) -> Session:
    made = Session([str(base)], [], ["piqe"], torch.device("cpu"), 100_000)
    made.bases = made.bases[1:]  # the tiny base comes first
    return made


@pytest.fixture
def address(session: Session):
    from gdpo_sr.demo.page import build, launch

    page = build(session)
    yield launch(page, "127.0.0.1", None, 1_000_000, wait=False)
    page.close()


def test_a_visitor_restores_a_picture(address: str, tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 28, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(tmp_path / "large.png")
    with open_browser(tmp_path / "profile") as page:
        page.open(address, 1280)
        page.until("document.querySelector('#picture input[type=file]') !== null", SECONDS)
        page.choose_file("#picture input[type=file]", tmp_path / "a.png")
        page.until("document.querySelector('#picture img') !== null", SECONDS)
        page.run("document.querySelector('#restore').click()")
        images = "document.querySelectorAll('#candidates .grid-container img').length"
        page.until(f"{images} === 4", SECONDS)
        page.until("document.querySelectorAll('#slider img').length === 2", SECONDS)
        page.until("document.querySelector('#spread img') !== null", SECONDS)
        sizes = "[...document.querySelectorAll('#slider img')].map(i => i.naturalWidth).join()"
        page.until(f"{sizes} === '112,112'", SECONDS)
        assert "piqe" in page.run("document.querySelector('#candidates').textContent")
        page.screenshot(tmp_path / "demo.png")
        strange = [u for u in page.requests if not u.startswith((address, "data:", "blob:"))]
        assert not strange and not page.errors, (strange, page.errors)
        assert page.run("document.querySelector('[aria-label=Share], [title=Share]')") is None


def test_stop_ends_after_the_candidate_in_work(session: Session, address: str, tmp_path: Path):
    def slow(image: torch.Tensor) -> float:
        time.sleep(1)
        return 0.0

    slow.lower_better = True
    session.metrics = {"slow": slow}
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    with open_browser(tmp_path / "profile") as page:
        page.open(address, 1280)
        page.until("document.querySelector('#picture input[type=file]') !== null", SECONDS)
        page.choose_file("#picture input[type=file]", tmp_path / "a.png")
        page.until("document.querySelector('#picture img') !== null", SECONDS)
        page.run("document.querySelector('#restore').click()")
        images = "document.querySelectorAll('#candidates .grid-container img').length"
        page.until(f"{images} > 0", SECONDS)
        page.run("document.querySelector('#stop').click()")
        time.sleep(6)
        assert page.run(images) < 4


def test_nothing_is_shared_and_other_places_are_forbidden(address: str):
    from urllib.request import urlopen

    with urlopen(address) as answer:
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert address.startswith("http://127.0.0.1:")
