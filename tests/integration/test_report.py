"""The report in a real browser: it loads without the network, the slider and the zoom work by
mouse, keyboard and control, and it fits a phone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gdpo_sr.evaluate import main
from gdpo_sr.utils.image_io import write_image
from tests.browser import Page, find_browser, open_browser

CARD = "document.querySelector('.card')"
RANGES = f"{CARD}.querySelectorAll('input')"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods on three pictures, one of 900 pixels; picture `b` differs most."""
    if find_browser() is None:
        pytest.skip("needs a Chromium browser (Debian: apt-get install chromium)")
    folder = tmp_path_factory.mktemp("report")
    generator = torch.Generator().manual_seed(0)
    for name, size, scale in (("a", 96, 1.0), ("b", 96, 3.0), ("wide", 900, 1.0)):
        truth = torch.rand(3, 12, 12, generator=generator).repeat_interleave(8, 1)
        truth = truth.repeat_interleave(8, 2)[:, :, :96].repeat(1, 1, size // 96 + 1)[..., :size]
        write_image(folder / "gt" / f"{name}.png", truth)
        for method, strength in (("first", 0.01), ("second", 0.03), ("third", 0.05)):
            noise = torch.randn(truth.shape, generator=generator) * strength * scale
            write_image(folder / method / f"{name}.png", (truth + noise).clamp(0, 1))
    methods = [str(folder / method) for method in ("first", "second", "third")]
    arguments = ["-i", *methods, "-g", str(folder / "gt"), "--metrics", "psnr_y", "gmsd"]
    assert main([*arguments, "--report", str(folder / "out")]) == 0
    return folder / "out" / "index.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def show(page: Page, report: Path, width: int = 1280) -> None:
    page.open(report, width)
    page.run(f"{CARD}.scrollIntoView({{behavior: 'instant'}})")
    page.until(f"[...{CARD}.querySelectorAll('img')].every(i => i.complete && i.naturalWidth)")


def test_it_loads_without_errors_and_without_network(report: Path, page: Page):
    show(page, report)
    assert page.errors == []
    asked = {url for url in page.requests if not url.startswith("data:")}
    assert asked == {report.as_uri()}
    names = page.run("[...document.querySelectorAll('.card h3')].map(e => e.textContent)")
    assert names[0] == "b" and sorted(names) == ["a", "b", "wide"]
    assert page.run("document.querySelectorAll('figure svg').length") == 2
    assert "768x96 at" in page.run("document.querySelector('#cards').textContent")


def test_the_slider_moves(report: Path, page: Page):
    """By mouse on the picture, by the range below, and by arrow keys; what is visible follows."""
    show(page, report)
    box = page.run(
        f"(r => [r.left, r.top, r.width, r.height])({CARD}.querySelector('.view')"
        ".getBoundingClientRect())"
    )
    left, top, width, height = box
    middle = (left + width / 2, top + height / 2)
    page.drag(middle, (left + width / 4, middle[1]))
    assert page.run(f"{RANGES}[0].value") == "25"
    clip = f"getComputedStyle({CARD}.querySelector('.before')).clipPath"
    assert page.run(clip) == "inset(0px 75% 0px 0px)"
    page.run(f"{CARD}.querySelector('.view').focus()")
    page.key("ArrowRight", 39)
    assert page.run(f"{RANGES}[0].value") == "27"
    page.run(f"{RANGES}[0].focus()")
    page.key("ArrowLeft", 37)
    assert page.run(clip) == "inset(0px 74% 0px 0px)"


def test_zoom_and_pan(report: Path, page: Page):
    show(page, report)
    transform = f"{CARD}.querySelector('img').style.transform"
    page.run(f"{CARD}.querySelector('.view').focus()")
    for _ in range(4):
        page.key("+", 187, "+")
    assert "scale(3)" in page.run(transform) and page.run(f"{RANGES}[1].value") == "3"
    before = page.run(transform)
    page.key("ArrowRight", 39, modifiers=8)
    assert page.run(transform) != before and page.run(f"{RANGES}[0].value") == "50"
    page.key("0", 48, "0")
    assert page.run(transform) == "translate(0px, 0px) scale(1)"


def test_methods_and_order_can_be_chosen(report: Path, page: Page):
    show(page, report)
    sources = page.run("[...document.querySelector('#left').options].map(o => o.value)")
    assert sources == ["first", "second", "third", "ground truth"]
    change = "dispatchEvent(new Event('change'))"
    page.run(f"(e => {{e.value = 'ground truth'; e.{change}}})(document.querySelector('#right'))")
    assert page.run(f"{CARD}.querySelector('.tag.b').textContent") == "ground truth"
    page.until(f"{CARD}.querySelectorAll('img')[0].alt.endsWith('ground truth')")
    page.run("document.querySelector('#swap').click()")
    assert page.run(f"{CARD}.querySelector('.tag.a').textContent") == "ground truth"
    page.run(f"(e => {{e.value = 'name'; e.{change}}})(document.querySelector('#order'))")
    names = page.run("[...document.querySelectorAll('.card h3')].map(e => e.textContent)")
    assert names == ["a", "b", "wide"] and page.errors == []


def test_it_fits_a_phone(report: Path, page: Page):
    show(page, report, width=390)
    assert page.run("document.documentElement.scrollWidth") <= 390
    assert page.run(f"{CARD}.getBoundingClientRect().right") <= 390


def test_every_control_has_a_name_and_can_be_reached(report: Path, page: Page):
    show(page, report)
    unnamed = page.run(
        "[...document.querySelectorAll('input,select,button,.view')].filter(e =>"
        " !(e.getAttribute('aria-label') || e.closest('label'))).length"
    )
    assert unnamed == 0
    assert page.run("[...document.querySelectorAll('img')].every(i => i.alt)")
    page.run("document.activeElement.blur()")
    seen = set()
    for _ in range(25):
        page.key("Tab", 9)
        seen.add(page.run("document.activeElement.tagName + document.activeElement.className"))
    assert {"SELECT", "BUTTON", "INPUT", "DIVview"} <= seen
