"""Options files gone wrong: the same meaning, or errors that name the file; never a traceback.

The long form: python -m pytest tests/faults/test_options_fuzz.py -m slow
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from gdpo_sr.config.load import dump_options, load_options
from gdpo_sr.config.yaml_file import parse_yaml
from gdpo_sr.types import OptionError

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
TYPES = {"0x1F": 31, "0o17": 15, "017": 17, "1:30": "1:30", "1_000": "1_000", "5e-5": 5e-5}


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


def outcome(file: Path, forced: list[str]) -> str:
    """`read`, if the options mean the same when written and read again, or `refused`."""
    start = time.monotonic()
    try:
        options = load_options(file, forced)
    except OptionError as error:
        lines = str(error).split("\n")
        assert all(line.startswith((str(file), "--force_yml")) for line in lines), lines
        assert all(len(line) < 2000 and line.isprintable() for line in lines), lines
        return "refused"
    finally:
        assert time.monotonic() - start < 2
    again = file.with_name("again.yml")
    again.write_text(dump_options(options), encoding="utf-8")
    assert load_options(again) == options
    return "read"


def fuzz(folder: Path, seeds: range) -> dict[str, int]:
    counts = {"read": 0, "refused": 0}
    for seed in seeds:
        draw = random.Random(seed)
        source = draw.choice(FILES)
        file, forced = folder / "options.yml", []
        file.write_text(mutated(source.read_text(), draw), encoding="utf-8", errors="replace")
        if draw.random() < 0.2:
            file.write_text(source.read_text())
            keys = ["train.total_iter", "train:loss", "val:metrics:a", "name", "x.y", "", ":", "."]
            forced = [f"{draw.choice(keys)}{draw.choice(['=', ''])}{draw.choice(VALUES)}"]
        try:
            counts[outcome(file, forced)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, {source.name}, {forced}: {error!r}") from error
    return counts


def test_mutated_options(tmp_path: Path):
    counts = fuzz(tmp_path, range(150))
    assert min(counts.values()) > 10


@pytest.mark.slow
def test_three_thousand_mutated_options(tmp_path: Path):
    print(fuzz(tmp_path, range(1000, 4000)))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:30])
def test_a_value_in_its_place(value: str, tmp_path: Path):
    """As the number of updates, as an option of a metric, and by --force_yml with dots."""
    text = FILES[0].read_text()
    file = tmp_path / "options.yml"
    for key in ("train.total_iter", "val.metrics.x"):
        file.write_text(text)
        forced = (
            value if key == "train.total_iter" else f"{{metric: niqe, options: {{a: {value}}}}}"
        )
        outcome(file, [f"{key}={forced}"])


@pytest.mark.parametrize(("text", "value"), TYPES.items())
def test_numbers_are_those_of_yaml_1_2(text: str, value: object):
    assert parse_yaml(text, "x") == value


@pytest.mark.parametrize("key", ["train.total_iter", "train.optim_g.lr", "train.optim_g.betas"])
def test_true_is_no_number(key: str):
    value = "[true, true]" if key.endswith("betas") else "true"
    with pytest.raises(OptionError, match=rf"{key} = .*must be a number, not 'true'"):
        load_options(FILES[0], [f"{key}={value}"])
    assert load_options(FILES[0], ["train.total_iter=5"]).train.total_iter == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "stands inside"),
        (LAUGHS, "more than 20000 values"),
        ("a: !!binary =", "tag !!binary"),
        ("a: !!int ''", "'' is no int"),
        ("a: " + "9" * 5000, "5000 digits"),
        ("a: {<<: 5}", "keys of a section"),
        ("[" * 60 + "]" * 60, "40 levels"),
    ],
)
def test_tricks_are_named(text: str, message: str):
    with pytest.raises(OptionError, match=message):
        parse_yaml(text, "file.yml")
