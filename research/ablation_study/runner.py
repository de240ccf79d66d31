"""Training and measuring one job, unless its result is there already."""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablation_study.plan import Common, Job
from ablation_study.results import Results, base_key, evaluation_key, run_key
from gdpo_sr.checkpoints.lora import load_lora
from gdpo_sr.config.data_options import ValDataOptions
from gdpo_sr.config.schema import GDPOOptions
from gdpo_sr.data.folder import usable_photos
from gdpo_sr.data.validation import make_validation_set
from gdpo_sr.metrics import Metric
from gdpo_sr.train import run as train
from gdpo_sr.trainer.build_data import build_base_generator, build_metrics
from gdpo_sr.trainer.picture_probes import probe
from gdpo_sr.trainer.validation import PairedValidation

QUIET = [
    "val:val_freq=0",
    "val:save_img=false",
    "val:metrics={}",
    "datasets:val:max_images=1",
    "logger:use_tb_logger=false",
    "logger:save_checkpoint_freq=50",
    "logger:keep_checkpoints=1",
]
"""For runs whose own validation nobody reads."""


class Runner:
    """Runs jobs and keeps their results.

    Args:
        common: what all runs share.
        results: where measurements are kept; the runs themselves are in `results.folder / runs`.
    """

    def __init__(self, common: Common, results: Results) -> None:
        self.common = common
        self.results = results
        self._metrics: dict[str, Metric] = {}
        self._pairs: dict[str, list[dict[str, Any]]] = {}
        self._keys: dict[Job, str] = {}

    def key(self, job: Job) -> str:
        """Name of the job's training, or of the base if it trains nothing."""
        if job not in self._keys:
            trained = job.row.train
            self._keys[job] = run_key(job, self.common) if trained else base_key(self.common)
        return self._keys[job]

    def result(self, job: Job) -> dict[str, Any] | None:
        """The job's measurement, or None."""
        return self.results.read(self.key(job), evaluation_key(self.common, job.row.t_add))

    def base_result(self) -> dict[str, Any] | None:
        """The measurement of the untrained base."""
        return self.result(Job.base())

    def is_done(self, job: Job) -> bool:
        """Whether nothing is left to do."""
        return self.result(job) is not None and self.base_result() is not None

    def run(self, job: Job) -> bool:
        """Train and measure. Returns False if the run was stopped; another call goes on."""
        for wanted in (Job.base(), job):
            if self.result(wanted) is not None:
                continue
            seconds = self._train(wanted) if wanted.row.train else 0.0
            if seconds is None:
                return False
            self._measure(wanted, seconds)
        return True

    def _train(self, job: Job) -> float | None:
        """Seconds of training, over all calls; None if the run was stopped."""
        folder = self.results.folder / "runs" / self.key(job)
        clock = folder.with_suffix(".seconds")
        spent = float(clock.read_text()) if clock.is_file() else 0.0
        if not (folder / "models" / "complete").is_file():
            start = time.monotonic()
            finished, _ = train(self._options(job), auto_resume=True)
            spent += time.monotonic() - start
            clock.write_text(str(spent))
            if not finished:
                return None
            (folder / "models" / "complete").touch()
            shutil.rmtree(folder / "training_states", ignore_errors=True)
        return spent

    def _options(self, job: Job) -> GDPOOptions:
        quiet = [*QUIET, f"name={self.key(job)}", "logger:show_progress=false"]
        quiet.append(f"path:experiments_root={self.results.folder / 'runs'}")
        row = job.row.model_copy(update={"force": (*job.row.force, *quiet)})
        return replace(job, row=row).options(self.common)

    def _measure(self, job: Job, seconds: float) -> None:
        start = time.monotonic()
        options = job.options(self.common)
        network = options.network_g
        if job.row.t_add is not None:
            network = network.model_copy(update={"t_add": job.row.t_add})
        generator = build_base_generator(network)
        if job.row.train:
            load_lora(generator.unet, self.results.folder / "runs" / self.key(job))
        scores = {
            name: self._score(generator, self._photos(name, photos, options.scale))
            for name, photos in self.common.evaluation.sets.items()
        }
        values = {
            "label": job.label,
            "force": job.force(self.common),
            "rewarded": rewarded(options),
            "lower_better": {name: m.lower_better for name, m in self._all_metrics().items()},
            "seconds_training": seconds,
            "seconds_measuring": time.monotonic() - start,
            "rollouts": options.train.total_iter
            * options.datasets.train.batch_size
            * options.train.accumulation
            * options.train.group_size
            if job.row.train
            else 0,
            "scores": scores,
        }
        evaluation = evaluation_key(self.common, job.row.t_add)
        self.results.write(self.key(job), evaluation, values)

    def _score(self, generator: Any, pairs: list[dict[str, Any]]) -> dict[str, list[float]]:
        """Metrics and probes by name, one value a photo."""
        e = self.common.evaluation
        metrics = self._all_metrics()
        validation = PairedValidation(
            generator, pairs, metrics, set(), e.noise_seed, e.num_noises, e.color_fix, nullcontext
        )
        scores, pictures = validation.remember_base()
        probes = [probe(picture, generator.pixels_per_latent) for picture in pictures]
        return {**scores, **{name: [p[name] for p in probes] for name in probes[0]}}

    def _all_metrics(self) -> dict[str, Metric]:
        if not self._metrics:
            self._metrics = build_metrics(self.common.evaluation.metrics, "cpu")
        return self._metrics

    def _photos(self, name: str, o: ValDataOptions, scale: int) -> list[dict[str, Any]]:
        if name not in self._pairs:
            pairs = make_validation_set(
                o.dataroot_gt, o.dataroot_lq, scale, o.gt_size, o.seed, o.degradation
            )
            self._pairs[name] = pairs[: o.max_images]
        return self._pairs[name]


def rewarded(options: GDPOOptions) -> list[str]:
    """Metrics that a run is rewarded for."""
    sets = options.train.reward
    return [
        reward.metric or name
        for kind in (sets.fidelity, sets.perception)
        for name, reward in kind.items()
        if reward.weight > 0
    ]


def tuning_folders(common: Common, out: Path) -> tuple[Path, Path]:
    """Folders of links: training photos to tune on, and every n-th one, held out."""
    photos = usable_photos(Job.base().options(common).datasets.train.dataroot_gt, 96)
    train_folder, held_out = out.resolve() / "tune" / "train", out.resolve() / "tune" / "held_out"
    for folder in (train_folder, held_out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for index, photo in enumerate(photos):
        folder = train_folder if (index + 1) % common.held_out_every else held_out
        (folder / photo.name).symlink_to(photo.resolve())
    return train_folder, held_out
