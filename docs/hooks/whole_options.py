"""Options in a sentence: a browser would break a line between `--` and the name."""

from __future__ import annotations

import re

CODE = re.compile(r"<code>[^<]*</code>")
OPTION = re.compile(r"(?<![\w-])--?[A-Za-z]\w*")


def whole_options(html: str) -> str:
    """The page with every option of inline code in one piece, by the class `option`."""

    def marked(match: re.Match[str]) -> str:
        return OPTION.sub(r'<span class="option">\g<0></span>', match.group())

    return CODE.sub(marked, html)
