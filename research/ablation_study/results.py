"""Results on disk: a table, a line a measurement, named by what it depends on and nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ablation_study.plan import Common, Job
from gdpo_sr.config.schema import NetworkOptions
from gdpo_sr.generators.load import base_folder

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "research" / "evidence" / "scores.jsonl"
"""Measurements that came with the repository."""


def digest(value: Any) -> str:
    """Short name of plain values, the same wherever the repository lies."""
    text = json.dumps(value, sort_keys=True, default=str).replace(f"{ROOT}/", "")
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def base_digest(network: NetworkOptions) -> str:
    """Short name of a base's weights: results of another base are other results."""
    folder = base_folder(network.base, network.revision)
    found = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        found.update(file.read_bytes())
    return found.hexdigest()[:12]


def run_key(job: Job, common: Common) -> str:
    """Name of a training: same options and same base, same name."""
    options = job.options(common)
    relevant = options.model_dump(
        mode="json", exclude={"name": True, "path": True, "logger": True, "val": True}
    )
    return digest([relevant, base_digest(options.network_g)])


def base_key(common: Common) -> str:
    """Name of the base itself."""
    network = Job.base().options(common).network_g
    return f"base_{digest([network.model_dump(), base_digest(network)])}"


def evaluation_key(common: Common, t_add: int | None) -> str:
    """Name of a measurement: metrics, photos, noise and step."""
    return digest([common.evaluation.model_dump(mode="json"), t_add])


class Results:
    """Measurements by run and evaluation: a table of one JSON object a line, sorted by name.

    Several processes may share a folder: each adds whole lines.

    Args:
        folder: where new ones are added, in `scores.jsonl`.
        shipped: the table for those that are not in `folder`.
    """

    def __init__(self, folder: Path, shipped: Path = SHIPPED) -> None:
        self.folder = folder
        self.table = folder / "scores.jsonl"
        self._found = {**read_table(shipped), **read_table(self.table)}

    def read(self, run: str, evaluation: str) -> dict[str, Any] | None:
        """A measurement, or None if there is none yet."""
        return self._found.get(f"{run}_{evaluation}")

    def everything(self) -> dict[str, Any]:
        """All measurements by name, sorted."""
        return dict(sorted(self._found.items()))

    def write(self, run: str, evaluation: str, values: dict[str, Any]) -> None:
        """Keep a measurement."""
        name = f"{run}_{evaluation}"
        self._found[name] = values
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.table.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, **values}) + "\n")


def read_table(table: Path) -> dict[str, dict[str, Any]]:
    """Measurements by name; none if there is no such file. The last of a name counts."""
    if not table.is_file():
        return {}
    rows = map(json.loads, table.read_text(encoding="utf-8").splitlines())
    return {row.pop("name"): row for row in rows}
