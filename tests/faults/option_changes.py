"""Every option of the schema changed, one at a time, in a run that goes on: it takes effect, or one
line refuses it and nothing is written.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gdpo_sr.cli import run_main
from gdpo_sr.config.load import dump_options, load_options
from gdpo_sr.config.resume_rules import rule_of
from gdpo_sr.config.schema import STAGES
from gdpo_sr.config.yaml_file import parse_yaml, read_yaml
from gdpo_sr.train import main
from gdpo_sr.types import OptionError
from tests.faults.runs import FILES, command, forked, times, told, train
from tests.faults.tally import Tally

ELSEWHERE = ("name", "path.experiments_root")
"""Options that say which run goes on."""
SLOW = ("train.compile",)
TEXTS = ("other", "lr", "x0", "none", "psnr_y", "ssim")
NUMBERS = (0.5, 1, 2, 3, 0, 0.25, 64, 100)


def leaves(node: dict[str, Any], defs: dict[str, Any], key: str = "") -> Iterator[tuple[str, dict]]:
    """Dotted keys of a JSON schema and what each may be; `x` stands for names of the user's."""
    while "$ref" in node:
        node = defs[node["$ref"].rpartition("/")[2]]
    if parts := node.get("anyOf") or node.get("oneOf"):
        for part in parts:
            yield from leaves(part, defs, key)
    elif "properties" in node:
        for name, part in node["properties"].items():
            yield from leaves(part, defs, f"{key}.{name}".lstrip("."))
    elif isinstance(node.get("additionalProperties"), dict):
        yield from leaves(node["additionalProperties"], defs, f"{key}.x")
    else:
        yield key, node


def kinds_of(model_type: str) -> dict[str, list[dict]]:
    """Every key of a stage, and its kinds."""
    schema = STAGES[model_type].model_json_schema()
    found: dict[str, list[dict]] = {}
    for key, node in leaves(schema, schema["$defs"]):
        found.setdefault(key, []).append(node)
    return found


def candidates(value: Any, kinds: list[dict]) -> Iterator[Any]:
    """Other values that an option might take."""
    types = {kind.get("type") for kind in kinds}
    for kind in kinds:
        yield from kind.get("enum", [])
        yield from [kind["const"]] if "const" in kind else []
    if "boolean" in types:
        yield not value
    if types & {"integer", "number"}:
        near = [value + 1, value / 2, value - 1] if isinstance(value, int | float) else []
        yield from [*near, *NUMBERS]
    if "null" in types:
        yield None
    yield from TEXTS if "string" in types else ()
    if "array" in types:
        yield from [*near_lists(value), [0.5, 0.9], [100, 150], ["other"], []]


def near_lists(value: Any) -> list[list]:
    """Ranges and shares that differ a little."""
    if not (isinstance(value, list) and value and all(isinstance(v, int | float) for v in value)):
        return []
    first, *rest = value
    return [[first + 2, *rest], [first + (rest or value)[-1], *rest][::-1], value[::-1],
            [first * 0.9, *rest]]  # fmt: skip


def changed(options: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Options with one of them another one."""
    found = copy.deepcopy(options)
    *parents, last = key.split(".")
    section = found
    for name in parents:
        section = section[name]
    section[last] = value
    return found


def value_at(options: dict[str, Any], key: str) -> Any:
    """Value of a dotted key; LookupError if there is none."""
    for name in key.split("."):
        if not isinstance(options, dict):
            raise LookupError(key)
        options = options[name]
    return options


def cases(stage: str, options: dict[str, Any], folder: Path) -> Iterator[tuple[str, Path | None]]:
    """Every key of a run's options, and a file in which it is another one; None where none of the
    candidates is a valid option.
    """
    file = folder / "changed.yml"
    for pattern, kinds in kinds_of(options["model_type"]).items():
        for key in named(pattern, options):
            if key in (*ELSEWHERE, *SLOW):
                continue
            value = value_at(options, key)
            found = None
            for other in candidates(value, kinds):
                if isinstance(value, dict) or (other == value and type(other) is type(value)):
                    continue
                file.write_text(json.dumps(changed(options, key, other)))
                with contextlib.suppress(OptionError):
                    load_options(file)
                    found = file
                    break
            yield key, found


def named(pattern: str, options: dict[str, Any]) -> Iterator[str]:
    """The keys of a run's options that a key of the schema stands for."""
    head, x, tail = pattern.partition(".x.")
    with contextlib.suppress(LookupError):
        if not x:
            value_at(options, pattern)
            yield pattern
            return
        for name in value_at(options, head) or {}:
            value_at(options, f"{head}.{name}.{tail}")
            yield f"{head}.{name}.{tail}"


def go_on(run: Path, file: Path, key: str, root: Path) -> bool:
    """Go on with a copy of a run; whether it was refused."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(run, root / run.name)
    before = times(root / run.name)

    place = f"path.experiments_root={root}"
    words = ["-opt", str(file), "--auto_resume", "--force_yml", place]
    status, lines = told(lambda: run_main(main, words), root / "errors")
    rule = rule_of(key)
    assert rule is not None
    if status == 2:
        assert len(lines) == 1 and times(root / run.name) == before, (lines, "it writes")
        return True
    assert status == 0 and not lines, (status, lines)
    assert rule.verdict != "refused", "it takes effect"
    new, used = read_yaml(file), read_yaml(root / run.name / "options.yml")
    assert value_at(used, key) == value_at(new, key), "another value is written"
    return False


def change_options(stage: str, base: Path, root: Path, share: float = 1) -> Tally:
    """A run of two updates goes on to a third one, with every option changed in turn."""
    tally = Tally(f"options changed on resume, {stage}", limit=60)
    assert forked(lambda: train(stage, base, root, train__total_iter=2)) == 0
    run = root / "run"
    forced = command(stage, base, root, train__total_iter=3)[3:]
    options = parse_yaml(dump_options(load_options(FILES[stage], forced)), "options")
    every, without = max(1, round(1 / share)), []
    for index, (key, file) in enumerate(cases(stage, options, root)):
        if file is None:
            without.append(key)
        elif index % every == 0:
            with tally.case(key):
                tally.refused += go_on(run, file, key, root / "copy")
    tally.note = f"no other value tried is valid for {', '.join(without)}"
    return tally
