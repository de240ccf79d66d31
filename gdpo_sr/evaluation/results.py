"""What an evaluation knows, and its JSON file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gdpo_sr.types import DatasetError, OptionError
from gdpo_sr.writer import write_file

FORMAT = "gdpo_sr scores 1"


@dataclass(frozen=True)
class MetricInfo:
    """A metric of the protocol.

    Attributes:
        missing: why it could not be computed and what to do; empty if it was.
        of_sets: one score per run and not per picture.
    """

    name: str
    lower_better: bool
    of_sets: bool = False
    missing: str = ""


@dataclass
class Run:
    """One folder of results: a method with one seed.

    Attributes:
        source: the folder as the user named it.
        images: files by name (the stem, shared with the ground truth).
        scores: numbers by name and metric; NaN, or no entry, where there is none.
        set_scores: numbers by metric of sets.
        problems: what went wrong, by name.
    """

    source: str
    images: dict[str, Path]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    set_scores: dict[str, float] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


@dataclass
class Evaluation:
    """Scores of all methods under one protocol; methods and names are in natural order.

    Attributes:
        protocol: `Protocol.record()`.
        versions: of the packages that computed the numbers.
        references: ground truth by name; empty without.
        left_out: names that some folder lacks, where that was allowed.
    """

    protocol: dict[str, Any]
    versions: dict[str, str]
    metrics: list[MetricInfo]
    methods: dict[str, list[Run]]
    references: dict[str, Path] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of the pictures, the same for all runs."""
        return list(next(iter(self.methods.values()))[0].images)

    @property
    def has_seeds(self) -> bool:
        """Whether some method has more than one run."""
        return any(len(runs) > 1 for runs in self.methods.values())

    def array(self, method: str, metric: str) -> np.ndarray:
        """(R, N) scores, NaN where there is none; (R, 1) for a metric of sets."""
        runs = self.methods[method]
        if any(info.of_sets for info in self.metrics if info.name == metric):
            return np.array([[run.set_scores.get(metric, math.nan)] for run in runs])
        rows = [
            [run.scores.get(name, {}).get(metric, math.nan) for name in self.names] for run in runs
        ]
        return np.array(rows)


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sorts run_2 before run_10."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p]


def in_order(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping sorted by `natural_key`."""
    return {key: entries[key] for key in sorted(entries, key=natural_key)}


def merge(evaluations: list[Evaluation]) -> Evaluation:
    """All methods of several evaluations side by side.

    Raises:
        OptionError: different protocols, or one method in two of them.
        DatasetError: different pictures.
    """
    first = evaluations[0]
    methods: dict[str, list[Run]] = {}
    for other in evaluations:
        _check_same_protocol(first, other)
        _check_same_names(first, other)
        if twice := methods.keys() & other.methods:
            raise OptionError(f"method '{min(twice)}' is in two files of scores; leave one out")
        methods |= other.methods
    infos = [_computed(group) for group in zip(*(e.metrics for e in evaluations), strict=True)]
    references = next((e.references for e in evaluations if e.references), {})
    left_out = sorted({name for e in evaluations for name in e.left_out}, key=natural_key)
    return Evaluation(
        first.protocol, first.versions, infos, in_order(methods), references, left_out
    )


def version_differences(evaluations: list[Evaluation]) -> list[str]:
    """Packages that differ between evaluations, as `pyiqa 0.1.14 / 0.1.16`."""
    found = []
    for package in evaluations[0].versions:
        seen = sorted({e.versions.get(package, "unknown") for e in evaluations})
        if len(seen) > 1:
            found.append(f"{package} {' / '.join(seen)}")
    return found


def save_json(path: Path, evaluation: Evaluation, summary: Mapping[str, Any]) -> None:
    """Write everything, null where there is no score."""
    content = {
        "format": FORMAT,
        "protocol": evaluation.protocol,
        "versions": evaluation.versions,
        "metrics": {info.name: asdict(info) for info in evaluation.metrics},
        "summary": summary,
        "left_out": evaluation.left_out,
        "ground_truth": {name: str(path) for name, path in evaluation.references.items()},
        "methods": {
            name: [_run_record(run) for run in runs] for name, runs in evaluation.methods.items()
        },
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
    write_file(path, text + "\n")


def load_json(path: Path) -> Evaluation:
    """Read what `save_json` wrote.

    Raises:
        OptionError: not a file of scores.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise KeyError("format")
        return Evaluation(
            protocol=content["protocol"],
            versions=content["versions"],
            metrics=[MetricInfo(**entry) for entry in content["metrics"].values()],
            methods={
                name: [_run_of(record) for record in records]
                for name, records in content["methods"].items()
            },
            references={name: Path(file) for name, file in content["ground_truth"].items()},
            left_out=list(content.get("left_out", [])),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        message = f"{path} is no file of scores ({reason}); give one that --save_json wrote"
        raise OptionError(message) from error


def number(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _run_record(run: Run) -> dict[str, Any]:
    images = {}
    for name, path in run.images.items():
        scores = {metric: number(value) for metric, value in run.scores.get(name, {}).items()}
        images[name] = {"file": str(path), "scores": scores}
    sets = {metric: number(value) for metric, value in run.set_scores.items()}
    return {"source": run.source, "sets": sets, "images": images, "problems": run.problems}


def _run_of(record: Mapping[str, Any]) -> Run:
    scores = {
        name: {metric: _nan(value) for metric, value in entry["scores"].items()}
        for name, entry in record["images"].items()
    }
    return Run(
        source=record["source"],
        images={name: Path(entry["file"]) for name, entry in record["images"].items()},
        scores=scores,
        set_scores={metric: _nan(value) for metric, value in record["sets"].items()},
        problems=dict(record["problems"]),
    )


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _computed(infos: tuple[MetricInfo, ...]) -> MetricInfo:
    return next((info for info in infos if not info.missing), infos[0])


def _check_same_protocol(first: Evaluation, other: Evaluation) -> None:
    if first.protocol == other.protocol:
        return
    keys = sorted(first.protocol.keys() | other.protocol.keys())
    different = [key for key in keys if first.protocol.get(key) != other.protocol.get(key)]
    key = "name" if "name" in different else different[0]
    values = f"{first.protocol.get(key)} and {other.protocol.get(key)}"
    raise OptionError(
        f"runs of different protocols cannot be compared: {', '.join(different)} differ"
        f" ({key}: {values}); score both again with one --protocol"
    )


def _check_same_names(first: Evaluation, other: Evaluation) -> None:
    different = sorted(set(first.names) ^ set(other.names), key=natural_key)
    if different:
        raise DatasetError(
            f"the files of scores hold different pictures: {shorten(different)} in one only;"
            " score the same set for all"
        )


def problem_lines(evaluation: Evaluation) -> list[str]:
    """Why pictures have no score, a line for each run and reason, with how many they are."""
    lines = []
    for method, runs in evaluation.methods.items():
        for run in runs:
            reasons: dict[str, list[str]] = {}
            for name, problem in run.problems.items():
                reasons.setdefault(problem, []).append(name)
            where = f"{method} ({run.source})" if len(runs) > 1 else method
            for reason, names in reasons.items():
                lines.append(f"{where}: {len(names)} of {len(run.images)}: {reason}")
    return lines


def shorten(names: list[str], shown: int = 10) -> str:
    """The first names and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
