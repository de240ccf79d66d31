"""What mkdocs does besides turning docs/*.md into pages; mkdocs.yml names this file.

It adds the generated references and the repository's own documents, rewrites links that lead out of
docs/, shows lines of the package and turns formulas into MathML, so that no script is needed.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docs.hooks.api_pages import api_pages  # noqa: E402
from docs.hooks.commands_page import commands_page  # noqa: E402
from docs.hooks.links import site_links  # noqa: E402
from docs.hooks.marks import with_marks  # noqa: E402
from docs.hooks.options_page import options_page  # noqa: E402
from docs.hooks.whole_options import whole_options  # noqa: E402

REPOSITORY = {
    "README.md": "index.md",
    "gdpo_sr/assets/mini/README.md": "repository/mini.md",
    "gdpo_sr/assets/mini-diffusion/README.md": "repository/mini_diffusion.md",
    "datasets/README.md": "repository/datasets.md",
    "integrations/comfyui/README.md": "repository/comfyui.md",
    "benchmarks/README.md": "repository/benchmarks.md",
    "research/README.md": "repository/research.md",
    "research/evidence/evidence.md": "repository/studies.md",
    "CONTRIBUTING.md": "repository/contributing.md",
    "CHANGELOG.md": "repository/changelog.md",
}
"""Documents outside docs/, and their place on the site."""
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
PICTURE = re.compile(r'<p>(<img [^>]*src="([^"]+)"[^>]*>)</p>')

_log = logging.getLogger("mkdocs.hooks.gdpo_sr")
_places: dict[str, str] = {}  # of a file of the repository on the site
_sources: dict[str, str] = {}  # the other way round


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the API's pages in the navigation."""
    [reference] = [part["Reference"] for part in config.nav or [] if "Reference" in part]
    pages = [{name: f"reference/api/{name}.md"} for name in api_pages(ROOT) if name != "index"]
    reference[:] = [part for part in reference if "Python API" not in part]
    reference.append({"Python API": ["reference/api/index.md", *pages]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated, and the documents outside docs/."""
    schema = json.loads((ROOT / "options/schema.json").read_text("utf-8"))
    made = {"reference/options.md": options_page(schema), "reference/commands.md": commands_page()}
    made |= {f"reference/api/{name}.md": text for name, text in api_pages(ROOT).items()}
    for source, place in REPOSITORY.items():
        made[place] = FRONT_MATTER.sub("", (ROOT / source).read_text("utf-8"))
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    for picture in sorted((ROOT / "research/evidence").glob("*.png")):
        place = f"repository/{picture.name}"
        files.append(File.generated(config, place, abs_src_path=str(picture)))
    _learn_places(files)
    return files


def _learn_places(files: Files) -> None:
    outside = {place: source for source, place in REPOSITORY.items()}
    for file in files:
        name = file.src_uri.rpartition("/")[2]
        png = f"research/evidence/{name}" if file.src_uri.startswith("repository/") else ""
        source = outside.get(file.src_uri, png or f"docs/{file.src_uri}")
        _places[source], _sources[file.src_uri] = file.src_uri, source


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links, show code."""
    source = _sources[page.file.src_uri]
    try:
        text = with_marks(markdown, ROOT)
    except (LookupError, OSError) as error:
        _log.warning("%s: %s", source, error)
        text = markdown
    return site_links(text, source, ROOT, _places, _log.warning)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas as MathML; a picture of its own opens at its full size; options in one piece."""

    def formula(match: re.Match[str]) -> str:
        display = "block" if match.group(1) == "div" else "inline"
        return convert(unescape(match.group(2)), display=display)

    with_pictures = PICTURE.sub(r'<p><a href="\2">\1</a></p>', FORMULA.sub(formula, html))
    return whole_options(with_pictures)
