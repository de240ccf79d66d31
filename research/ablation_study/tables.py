"""Scores of a row as arrays, and the rows of a study's table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ablation_study.plan import Job, Study
from ablation_study.runner import Runner
from ablation_study.statistics import Difference, paired_difference
from gdpo_sr.metrics.protocols import metric_facts

PROBES = ("edge_density", "high_frequency", "latent_grid")


@dataclass(frozen=True)
class Cell:
    """One row and metric.

    Attributes:
        seeds: how many are complete.
        mean: of the row, over seeds and photos.
        gain: against the base; of a probe: the plain change.
        net: against the row's own control; None without one.
    """

    seeds: int
    mean: float
    gain: Difference
    net: Difference | None


class Scores:
    """What has been measured so far.

    Args:
        runner: knows where results are.
        photos: name of the only set to look at; None: all photos of all sets.
    """

    def __init__(self, runner: Runner, photos: str | None = None) -> None:
        self.runner = runner
        self.photos = photos
        self.base = runner.result(Job.base())
        self._cells: dict[tuple[str, str, str], Cell | None] = {}

    def metrics(self) -> list[str]:
        """Metrics, then probes."""
        return [*self.runner.common.evaluation.metrics, *PROBES]

    def lower_better(self, metric: str) -> bool:
        """Direction; probes are plain changes."""
        options = self.runner.common.evaluation.metrics.get(metric)
        return options is not None and metric_facts(options.metric or metric)[0]

    def base_scores(self, metric: str) -> np.ndarray:
        """(1, N) of the base, over the photos of all sets."""
        return self._of(Job.base(), metric)[None]

    def _of(self, job: Job, metric: str) -> np.ndarray | None:
        result = self.runner.result(job)
        if result is None:
            return None
        sets = result["scores"] if self.photos is None else {"": result["scores"][self.photos]}
        return np.array([v for scores in sets.values() for v in scores[metric]], float)

    def runs(self, study: Study, name: str, metric: str) -> dict[int, tuple[np.ndarray, ...]]:
        """Scores (N,) of a row, and of its control if it trains, by complete seed."""
        row, seeds = study.rows[name], self.runner.common.seeds_of(study)
        found = {}
        for seed in seeds if row.train else seeds[:1]:
            job = study.job(name, seed)
            jobs = (job, job.as_control()) if study.has_control(row) else (job,)
            scores = tuple(self._of(j, metric) for j in jobs)
            if all(s is not None for s in scores):
                found[seed] = scores
        return found

    def cell(self, study: Study, name: str, metric: str) -> Cell | None:
        """Figures of a row, or None if no seed is complete."""
        key = (study.name, name, metric)
        if key not in self._cells:
            self._cells[key] = self._cell(study, name, metric)
        return self._cells[key]

    def _cell(self, study: Study, name: str, metric: str) -> Cell | None:
        runs = list(self.runs(study, name, metric).values())
        if not runs:
            return None
        lower = self.lower_better(metric)
        ours = np.stack([run[0] for run in runs])
        net = None
        if study.has_control(study.rows[name]):
            net = paired_difference(ours, np.stack([run[1] for run in runs]), lower)
        gain = paired_difference(ours, self.base_scores(metric), lower)
        return Cell(len(runs), float(np.nanmean(ours)), gain, net)

    def between(self, study: Study, better: str, than: str, metric: str) -> Difference | None:
        """Row against row (or `base`), over the seeds that both have; None if there are none."""
        ours = self.runs(study, better, metric)
        if than == "base":
            theirs = {seed: (self.base_scores(metric)[0],) for seed in ours}
        else:
            theirs = self.runs(study, than, metric)
        seeds = [seed for seed in ours if seed in theirs]
        if not seeds:
            return None
        pairs = [np.stack([runs[seed][0] for seed in seeds]) for runs in (ours, theirs)]
        return paired_difference(*pairs, self.lower_better(metric))

    def rewarded(self, study: Study, name: str) -> list[str]:
        """Metrics that a row was rewarded for, among those that are measured."""
        job = study.job(name, self.runner.common.seeds_of(study)[0])
        result = self.runner.result(job)
        measured = self.runner.common.evaluation.metrics
        return [m for m in (result["rewarded"] if result else []) if m in measured]

    def seconds(self, study: Study, name: str) -> float:
        """Of training a row, mean of the seeds that are there; 0: none, or it is not trained."""
        jobs = [study.job(name, seed) for seed in self.runner.common.seeds_of(study)]
        found = [result for job in jobs if (result := self.runner.result(job))]
        return float(np.mean([r["seconds_training"] for r in found])) if found else 0.0
