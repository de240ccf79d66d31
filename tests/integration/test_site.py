"""The site builds strictly from this repository, and what is built needs nothing from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs.hooks.options_page import options_page

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("mkdocs", reason='needs the site\'s tools: pip install -e ".[docs]"')


class Loads(HTMLParser):
    """Addresses that a browser fetches by itself, and headings' names."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.names.add(values.get("id", ""))
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(values.get("src", ""))
        elif tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(values.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def read(page: Path) -> Loads:
    loads = Loads()
    loads.feed(page.read_text("utf-8"))
    return loads


def test_no_page_fetches_anything_from_elsewhere(site: Path):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    away = {p.name: [a for a in read(p).found if "//" in a] for p in pages if p.name != "404.html"}
    assert {name: found for name, found in away.items() if found} == {}
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?https?:|@import", style.read_text("utf-8")), style


def test_the_references_are_generated(site: Path):
    schema = (ROOT / "options" / "schema.json").read_text("utf-8")
    wanted = set(re.findall(r"\{#(\w+)\}", options_page(json.loads(schema))))
    assert wanted <= read(site / "reference" / "options.html").names
    names = read(site / "reference" / "api" / "losses.html").names
    assert "gdpo_sr.losses.gdpo_loss.gdpo_loss" in names
    pipelines = read(site / "reference" / "api" / "pipelines.html").names
    assert "gdpo_sr.pipelines.one_step_sr.OneStepSRPipeline.from_pretrained" in pipelines


def test_marks_and_formulas_are_replaced(site: Path):
    text = (site / "method.html").read_text("utf-8")
    assert "<math" in text and "<!-- code" not in text and "arithmatex" not in text
    assert "resume rules" not in (site / "train" / "runs.html").read_text("utf-8")


def test_a_plot_opens_at_its_full_size(site: Path):
    text = (site / "evidence.html").read_text("utf-8")
    assert re.search(r'<a href="repository/d_curves.png"><img [^>]*src="repository/d_curves', text)
    assert (site / "repository" / "d_curves.png").is_file()


def test_the_home_page_is_the_readme(site: Path):
    first = (ROOT / "README.md").read_text("utf-8").splitlines()[0].lstrip("# ")
    home = (site / "index.html").read_text("utf-8")
    assert f">{first}<" in home and (site / "hero.jpg").is_file()
