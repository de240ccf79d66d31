"""Results on disk: one JSON file a run, found by what the run depends on and by nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ablation_study.plan import Common, Job
from gdpo_sr.config.paths import write_text
from gdpo_sr.config.schema import NetworkOptions
from gdpo_sr.generators.load import base_folder

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "research" / "evidence_scores"
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
    """Measurements by run and evaluation, below one folder.

    Args:
        folder: where new ones are written.
        shipped: where those are looked for that are not in `folder`.
    """

    def __init__(self, folder: Path, shipped: Path = SHIPPED) -> None:
        self.folder, self.shipped = folder, shipped

    def file(self, run: str, evaluation: str) -> Path:
        """Where a measurement is kept."""
        return self.folder / "scores" / f"{run}_{evaluation}.json"

    def read(self, run: str, evaluation: str) -> dict[str, Any] | None:
        """A measurement, or None if there is none yet."""
        own = self.file(run, evaluation)
        for file in (own, self.shipped / own.name):
            if file.is_file():
                return json.loads(file.read_text(encoding="utf-8"))
        return None

    def everything(self) -> dict[str, Any]:
        """All measurements by file name."""
        folders = (self.shipped, self.folder / "scores")
        found = [file for folder in folders for file in sorted(folder.glob("*.json"))]
        return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in found}

    def write(self, run: str, evaluation: str, values: dict[str, Any]) -> None:
        """Keep a measurement."""
        file = self.file(run, evaluation)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(values, indent=1))
