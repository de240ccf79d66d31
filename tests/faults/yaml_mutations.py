"""Options files gone wrong: the same meaning, or errors that name the file; never a traceback."""

from __future__ import annotations

import random
from pathlib import Path

from gdpo_sr.config.load import dump_options, load_options
from gdpo_sr.types import OptionError
from tests.faults.tally import Tally

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(f for f in (ROOT / "options").rglob("*.yml"))
LAUGHS = "{" + ", ".join(["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]"
                                               for i in range(1, 30)]) + "}"  # fmt: skip
VALUES = [
    *("!!int ''", "!!bool maybe", "!!timestamp nope", "!!binary =", "!!float x", "!!null 1"),
    *("!!set {a}", "!!python/name:os.system", "!x 1", "&a [*a]", "&a {b: *a}", "*missing", LAUGHS),
    *("9" * 5000, "1e400", "-1e999", "1e300", ".nan", "-.inf", "017", "0o17", "0x1F", "1:30"),
    *("1_000", "2020-01-01", "true", "yes", "null", "~", "''", '"5"', "[]", "{}", "[[[[[[1]]]]]]"),
    *("-1", "0", "1.5", "99999999999", "[true, false]", "{a: {b: {c: 1}}}", "{<<: {a: 1}}", "<<"),
    *("|", ">-", "? a", "- a", "a: b: c", "'", '"', "[", "}", "%YAML 9", "---", "...", "@", "`"),
    *("\x00", "\x07", "\ufeff", "\u2028", "\U0001f600", "\\ud800", "a" * 20000, "[" * 3000),
    *("../../etc/passwd", "/dev/zero", "http://example.com/x", "os.system", "file:///etc"),
]


def mutated(text: str, draw: random.Random) -> str:
    """A text with one to three things wrong."""
    lines = text.splitlines()
    for _ in range(draw.randint(1, 3)):
        i = draw.randrange(len(lines))
        kind = draw.randrange(8)
        if kind < 3:  # another value
            key = lines[i].split(":")[0]
            lines[i] = f"{key}: {draw.choice(VALUES)}"
        elif kind == 3:
            del lines[i]
        elif kind == 4:
            lines.insert(draw.randrange(len(lines)), lines[i])
        elif kind == 5:
            lines[i] = draw.choice([" ", "  ", "\t", "- "]) + lines[i]
        elif kind == 6:
            at = draw.randrange(len(lines[i]) + 1)
            lines[i] = lines[i][:at] + draw.choice(VALUES)[:9] + lines[i][at:]
        else:
            at = draw.randrange(len(lines[i]) + 1)
            lines[i] = (
                lines[i][:at] + chr(draw.choice([0, 9, 58, 123, 91, 33, 233])) + lines[i][at:]
            )
        lines = lines or [""]
    return "\n".join(lines)


def _is_a_key(line: str) -> bool:
    """Whether a line begins a value, or none."""
    return not line.strip() or line.strip()[0] in "#-" or ":" in line


def reworded(text: str, draw: random.Random) -> str:
    """A text that means the same: comments, empty lines, spaces at the ends of lines; not inside of
    a text that goes over several lines, where they mean something.
    """
    lines = text.splitlines()
    for _ in range(draw.randint(1, 3)):
        i = draw.choice([i for i, line in enumerate(lines) if _is_a_key(line)])
        lines[i : i + 1] = draw.choice([[lines[i] + "  "], ["", lines[i]], ["# a: [", lines[i]]])
    return "\n".join(lines)


def read_or_refused(file: Path, forced: list[str]) -> None:
    """The options mean the same when written and read again; an error names its source."""
    try:
        options = load_options(file, forced)
    except OptionError as error:
        lines = str(error).split("\n")
        assert all(line.startswith((str(file), "--force_yml")) for line in lines), lines
        raise
    again = file.with_name("again.yml")
    again.write_text(dump_options(options), encoding="utf-8")
    assert load_options(again) == options


def spoil_options(folder: Path, seeds: range) -> Tally:
    """Options files and items of --force_yml, mutated."""
    tally = Tally("YAML of options mutated", limit=2)
    keys = ["train.total_iter", "train:loss", "val:metrics:a", "name", "x.y", "", ":", "."]
    for seed in seeds:
        draw = random.Random(seed)
        source = draw.choice(FILES)
        file, text, forced = folder / "options.yml", source.read_text(), []
        kind = draw.random()
        same = 0.2 <= kind < 0.3
        if kind < 0.2:
            forced = [f"{draw.choice(keys)}{draw.choice(['=', ''])}{draw.choice(VALUES)}"]
        else:
            text = reworded(text, draw) if same else mutated(text, draw)
        file.write_text(text, encoding="utf-8", errors="replace")
        with tally.case(f"seed {seed}, {source.name}, {forced!a:.60}"):
            try:
                read_or_refused(file, forced)
            except OptionError as error:
                assert not same, f"refused, though it means the same: {error}"
                raise
            assert not same or load_options(file) == load_options(source)
    return tally
