"""Scores on disk: one table, a JSON object a line, found by what was run and by nothing else.

A run is the words that change the options file, in the order of their names, on a base's weights;
so runs are found again after a change of the code or of other options. Whoever changes what the
options file itself says, or what a step computes, begins a new table or removes lines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ablation_study.plan import Common, Job
from gdpo_sr.config.schema import NetworkOptions
from gdpo_sr.generators.base_folder import base_folder

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "research" / "evidence" / "scores.jsonl"
"""Measurements that came with the repository."""
IDENTITY = ("base", "force", "t_add", "lora_scale", "evaluation")


def base_digest(network: NetworkOptions) -> str:
    """Short name of a base's weights: results of another base are other results."""
    folder = base_folder(network.base, network.revision)
    found = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        found.update(file.read_bytes())
    return found.hexdigest()[:12]


def effective(force: Sequence[str]) -> list[str]:
    """Words `key=value` sorted by key; the last of a key counts, as in --force_yml."""
    values = dict(word.split("=", 1) for word in force)
    return [f"{key}={value}".replace(f"{ROOT}/", "") for key, value in sorted(values.items())]


def identity(job: Job, common: Common) -> dict[str, Any]:
    """What a measurement depends on; the base itself on no training option."""
    force = effective(job.force(common)) if job.row.train else ["no training"]
    evaluation = common.evaluation.model_dump(include={"noise_seed", "num_noises", "color_fix"})
    values = (common.base, force, job.row.t_add, job.row.lora_scale, evaluation)
    return dict(zip(IDENTITY, values, strict=True))


def run_name(job: Job, common: Common) -> str:
    """Folder of a job's training: equal for all jobs that train the same."""
    words = {**identity(job, common), "t_add": None, "lora_scale": None, "evaluation": None}
    return hashlib.sha256(_key(words).encode()).hexdigest()[:12]


class Results:
    """Measurements by what was run. Several processes may share a folder: each adds whole lines.

    Args:
        folder: where new ones are added, in `scores.jsonl`.
        shipped: table of those that are not in `folder`.
    """

    def __init__(self, folder: Path, shipped: Path = SHIPPED) -> None:
        self.folder = folder
        self.table = folder / "scores.jsonl"
        self._found = {_key(row): row for row in (*read_table(shipped), *read_table(self.table))}

    def read(self, job: Job, common: Common) -> dict[str, Any] | None:
        """The job's measurement, or None if a set of photos or a metric is not in it."""
        row = self._found.get(_key(identity(job, common)))
        wanted = common.evaluation.sets
        if row is None or not all(name in row["scores"] for name in wanted):
            return None
        scores = {name: row["scores"][name] for name in wanted}
        metrics = common.evaluation.metrics
        complete = all(name in found for found in scores.values() for name in metrics)
        return {**row, "scores": scores} if complete else None

    def write(self, job: Job, common: Common, values: dict[str, Any]) -> None:
        """Keep a measurement."""
        row = {"label": job.label, **identity(job, common), **values}
        self._found[_key(row)] = row
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.table.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def of_base(self, base: str) -> list[dict[str, Any]]:
        """All measurements on a base's weights."""
        return [row for row in self._found.values() if row["base"] == base]


def read_table(table: Path) -> Iterable[dict[str, Any]]:
    """Rows of a table; none if there is no such file."""
    if not table.is_file():
        return []
    return map(json.loads, table.read_text(encoding="utf-8").splitlines())


def _key(row: dict[str, Any]) -> str:
    return json.dumps([row[name] for name in IDENTITY], sort_keys=True)
