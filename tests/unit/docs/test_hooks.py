"""Links, marks and the API's pages of the site, without mkdocs."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.hooks.api_pages import api_pages
from docs.hooks.commands_page import commands_page
from docs.hooks.links import site_links
from docs.hooks.marks import definition, resume_rules, with_marks
from docs.hooks.whole_options import whole_options
from gdpo_sr.config.resume_rules import RULES

ROOT = Path(__file__).resolve().parents[3]
PAGES = {"docs/a.md": "a.md", "docs/b.md": "b.md", "data/README.md": "repository/data.md"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("docs/a.md", "docs/b.md", "data/README.md", "data/tool.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "source", "wanted"),
    [
        ("[b](b.md#x)", "docs/a.md", "[b](b.md#x)"),
        ("[data](../data/README.md)", "docs/a.md", "[data](repository/data.md)"),
        ("[a](../docs/a.md)", "data/README.md", "[a](../a.md)"),
        ("see [`tool`](../data/tool.py)", "docs/a.md", "see `tool`"),
        ("[out](https://example.org/x) [here](#x)", "docs/a.md", None),
        ("```python\nf[0](b.py)\n```", "docs/a.md", None),
    ],
)
def test_links_as_they_are_on_the_site(repository: Path, text: str, source: str, wanted: str):
    told: list[str] = []
    assert site_links(text, source, repository, PAGES, told.append) == (wanted or text)
    assert told == []


def test_a_link_to_no_file_is_told(repository: Path):
    told: list[str] = []
    site_links("[gone](../data/gone.md)", "docs/a.md", repository, PAGES, told.append)
    assert told == ["docs/a.md: the link '../data/gone.md' leads to no file"]


SOURCE = '''
class A:
    """Of a class."""

    def f(self, x: int) -> int:
        """Two
        lines.
        """
        # a comment stays
        return x + 1


@decorated
def g():
    return "text"
'''


def test_definitions_without_docstrings():
    method = "def f(self, x: int) -> int:\n    # a comment stays\n    return x + 1"
    assert definition(SOURCE, "A.f") == method
    assert definition(SOURCE, "g") == '@decorated\ndef g():\n    return "text"'
    assert definition(SOURCE, "A").startswith("class A:\n    def f(")
    with pytest.raises(LookupError, match="no 'h'"):
        definition(SOURCE, "h")


def test_a_mark_becomes_lines_of_the_package():
    text = "before\n\n<!-- code: gdpo_sr/generators/diffusion_math.py add_noise -->\n\nafter"
    shown = with_marks(text, ROOT)
    assert "return alpha_bar**0.5 * latents + (1 - alpha_bar) ** 0.5 * noise" in shown
    assert shown.startswith("before") and shown.endswith("after") and "<!--" not in shown


def test_the_table_of_resume_rules_has_them_all():
    lines = resume_rules().splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == [rule.pattern for rule in RULES]


def test_every_module_with_docstrings_is_in_the_api():
    pages = api_pages(ROOT)
    text = "\n".join(pages.values())
    assert "::: gdpo_sr.pipelines.one_step_sr\n" in pages["pipelines"]
    assert "::: gdpo_sr.advantages\n" in pages["modules"]
    packages = {path.parent.name for path in (ROOT / "gdpo_sr").glob("*/__init__.py")}
    assert packages == pages.keys() - {"index", "modules"}
    for path in (ROOT / "gdpo_sr").glob("*/*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        assert path.stem == "__init__" or f"::: {name}\n" in text


def test_the_commands_page_shows_options():
    page = commands_page()
    assert "## gdpo-sr inference" in page and "--lora_scale X" in page
    assert "--auto_resume" in page and "## gdpo-sr export" in page


def test_options_stay_in_one_piece():
    """On a phone a line ended in `--` and the next began with `max_pixels`."""
    page = "<p><code>--format jpg</code>, <code>a-b --x</code> --no <code>log/x-y</code></p>"
    whole = '<span class="option">{}</span>'.format
    first, second = whole("--format"), whole("--x")
    assert whole_options(page) == (
        f"<p><code>{first} jpg</code>, <code>a-b {second}</code> --no <code>log/x-y</code></p>"
    )
