"""Author, year and licence of a picture, from its package's Debian copyright file.

Only the machine-readable format (DEP-5, "Files:" / "Copyright:" / "License:") is read. Its paths
are those of the source package, which the installed ones resemble in their last parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

FREE = re.compile(
    r"(?!.*-(?:NC|ND)\b)"
    r"(CC0|CC-BY-\d|CC-BY-SA-\d|A?GPL|LGPL|GFDL|FAL|public[- ]domain|Expat|MIT|BSD|Apache"
    r"|Attribution \()",  # Wikimedia Commons' template of that name: any use with attribution
    re.I,
)
NO_AUTHOR = re.compile(r"CC0|public[- ]domain", re.I)
YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")


@dataclass(frozen=True)
class Credit:
    """Whose picture it is, under which licence, and where that is said."""

    author: str
    year: str
    licence: str
    stated_by: str

    @property
    def is_free(self) -> bool:
        """Whether the licence allows use, change and sharing for any purpose."""
        return FREE.match(self.licence) is not None

    @property
    def problem(self) -> str:
        """Why a picture may not be used, or ""."""
        if not self.licence:
            return "no licence found"
        if not self.is_free:
            return f"licence {self.licence} is not one of the free ones"
        if not self.author and not NO_AUTHOR.match(self.licence):
            return f"no author found, whom licence {self.licence} asks to name"
        return ""


@dataclass(frozen=True)
class Stanza:
    """One "Files:" paragraph."""

    patterns: tuple[str, ...]
    holders: tuple[str, ...]
    licence: str

    def credit(self) -> Credit:
        """The author as the holders' names, the year as first or first-last."""
        years = sorted(year for line in self.holders for year in YEAR.findall(line))
        span = "-".join(dict.fromkeys((years[0], years[-1]))) if years else ""
        names = dict.fromkeys(filter(None, map(_name, self.holders)))
        return Credit(", ".join(names), span, self.licence, "copyright file")


def parse_copyright(text: str) -> list[Stanza]:
    """The "Files:" paragraphs in order; [] if the text is not machine-readable."""
    if not re.match(r"\s*Format(-Specification)?:", text):
        return []
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields = _fields(paragraph)
        if "files" in fields and fields.get("license"):
            patterns = tuple(" ".join(fields["files"]).split())
            holders = tuple(line.strip() for line in fields.get("copyright", []) if line.strip())
            found.append(Stanza(patterns, holders, fields["license"][0].strip()))
    return found


def find_credit(stanzas: list[Stanza], path: str) -> Credit | None:
    """What the copyright file says of an installed picture.

    The last paragraph decides whose pattern fits the end of the path; else the one that names a
    file of this name, if no other one does. The paragraph of all files (`*`) is not believed: it
    names the authors of the program, seldom those of the pictures in it.
    """
    for stanza in reversed(stanzas):
        if any(_fits_end(pattern, path) for pattern in stanza.patterns):
            return stanza.credit()
    name = PurePosixPath(path).name
    named = [s for s in stanzas if any(_names_file(pattern, name) for pattern in s.patterns)]
    return named[0].credit() if len(named) == 1 else None


def _fits_end(pattern: str, path: str) -> bool:
    """Whether a pattern other than `*` fits the path or its last parts."""
    parts = path.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    regex = _regex(pattern)
    return pattern != "*" and any(regex.fullmatch(end) for end in ends)


def _names_file(pattern: str, name: str) -> bool:
    """Whether the last part of the pattern is this file's name; `*.png` names none."""
    last = pattern.rsplit("/", 1)[-1]
    return not last.startswith("*") and _regex(last).fullmatch(name) is not None


def _regex(pattern: str) -> re.Pattern[str]:
    """`*` is any text, slashes too, `?` any character, as the format has it."""
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."))


def _fields(paragraph: str) -> dict[str, list[str]]:
    """Lines of each field; the first is what follows the colon."""
    fields: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in paragraph.splitlines():
        if match := re.match(r"([A-Za-z-]+):\s?(.*)", line):
            lines = fields.setdefault(match[1].lower(), [])
            line = match[2]
        lines.append(line)
    return fields


def _name(holder: str) -> str:
    """A holder's line without years, addresses and signs."""
    text = re.sub(r"<[^>]*>|https?://\S+|\(c\)|©|copyright", " ", holder, flags=re.I)
    text = re.sub(r"(?:19|20)\d\d\s*(?:-\s*(?:19|20)\d\d)?", " ", text)
    return " ".join(text.split()).strip(" ,.;´`-")
