"""Links of a Markdown file of the repository, as they are on the site.

Files that are pages of the site are linked; other files are named. What does not exist is told.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def site_links(
    text: str, source: str, root: Path, pages: Mapping[str, str], tell: Callable[[str], None]
) -> str:
    """The text with its relative links rewritten.

    Args:
        text: Markdown.
        source: its file, from the root of the repository.
        root: the repository.
        pages: place on the site of files of the repository.
        tell: is called with a sentence for every link to a file that does not exist.
    """

    def rewrite(match: re.Match[str]) -> str:
        mark, words, link = match.groups()
        target, _, fragment = link.partition("#")
        if not target or ":" in target:
            return match.group()
        place = os.path.normpath(os.path.join(os.path.dirname(source), target))
        if place in pages:
            there = os.path.relpath(pages[place], os.path.dirname(pages[source]))
            return f"{mark}[{words}]({there}{'#' + fragment if fragment else ''})"
        if not (root / place).exists():
            tell(f"{source}: the link '{link}' leads to no file")
        return words

    parts = FENCE.split(text)
    return "".join(p if p.startswith("```") else LINK.sub(rewrite, p) for p in parts)
