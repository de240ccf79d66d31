"""Training and measuring one job, unless its result is there already."""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from ablation_study.plan import Common, Job
from ablation_study.results import Results, base_digest, run_name
from gdpo_sr.checkpoints.load_adapter import load_adapter
from gdpo_sr.checkpoints.meaning import given_in
from gdpo_sr.config.schema import GDPOOptions
from gdpo_sr.data.folder import usable_photos
from gdpo_sr.data.validation import make_validation_set
from gdpo_sr.metrics import Metric
from gdpo_sr.train import run as train
from gdpo_sr.trainer.alarms import probe
from gdpo_sr.trainer.build_data import build_base_generator, build_metrics
from gdpo_sr.trainer.validation import PairedValidation
from gdpo_sr.types import OptionError

QUIET = (
    "val:val_freq=0",
    "val:save_img=false",
    "val:metrics={}",
    "datasets:val:max_images=1",
    "logger:use_tb_logger=false",
    "logger:save_checkpoint_freq=50",
    "logger:keep_checkpoints=1",
    "logger:show_progress=false",
)
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

    def result(self, job: Job) -> dict[str, Any] | None:
        """The job's measurement, or None."""
        return self.results.read(job, self.common)

    def is_done(self, job: Job) -> bool:
        """Whether nothing is left to do."""
        return self.result(job) is not None and self.result(Job.base()) is not None

    def run(self, job: Job) -> bool:
        """Train and measure. Returns False if the run was stopped; another call goes on."""
        for wanted in (Job.base(), job):
            if self.result(wanted) is not None:
                continue
            self._check_base(wanted)
            seconds = self._train(wanted) if wanted.row.train else 0.0
            if seconds is None:
                return False
            self._measure(wanted, seconds)
        return True

    def _check_base(self, job: Job) -> None:
        found = base_digest(job.options(self.common).network_g)
        if found != self.common.base:
            raise OptionError(
                f"common.yml: base = {self.common.base}, the weights here are {found}: write "
                f"base: {found} to begin anew; scores of other weights stay in their table"
            )

    def _folder(self, job: Job) -> Path:
        return self.results.folder / "runs" / run_name(job, self.common)

    def _train(self, job: Job) -> float | None:
        """Seconds of training, over all calls; None if the run was stopped."""
        folder = self._folder(job)
        clock = folder.with_suffix(".seconds")
        spent = float(clock.read_text()) if clock.is_file() else 0.0
        if not (folder / "models" / "complete").is_file():
            start = time.monotonic()
            finished = train(self._options(job), auto_resume=True).finished
            spent += time.monotonic() - start
            clock.write_text(str(spent))
            if not finished:
                return None
            (folder / "models" / "complete").touch()
            shutil.rmtree(folder / "training_states", ignore_errors=True)
        return spent

    def _options(self, job: Job) -> GDPOOptions:
        folder = self._folder(job)
        place = (f"name='{folder.name}'", f"path:experiments_root={folder.parent}")
        return job.options(self.common, (*QUIET, *place))

    def _measure(self, job: Job, seconds: float) -> None:
        start = time.monotonic()
        options = job.options(self.common)
        network = options.network_g
        if job.row.t_add is not None:
            network = network.model_copy(update={"t_add": job.row.t_add})
        generator = build_base_generator(network)
        if job.row.train:
            scale = 1.0 if job.row.lora_scale is None else job.row.lora_scale
            load_adapter(generator, self._folder(job), given=given_in(network), scale=scale)
        scores = {name: self._score(generator, pairs) for name, pairs in self._photos.items()}
        values = {
            "rewarded": rewarded(options) if job.row.train else [],
            "seconds_training": round(seconds, 3),
            "seconds_measuring": round(time.monotonic() - start, 3),
            "scores": scores,
        }
        self.results.write(job, self.common, values)

    def _score(self, generator: Any, pairs: list[dict[str, Any]]) -> dict[str, list[float]]:
        """Metrics and probes by name, one value a photo."""
        e = self.common.evaluation
        validation = PairedValidation(
            generator, pairs, self._metrics, set(), e.noise_seed, e.num_noises, e.color_fix,
            nullcontext,
        )  # fmt: skip
        scores, pictures = validation.remember_base()
        probes = [probe(picture, generator.pixels_per_latent) for picture in pictures]
        scores = {**scores, **{name: [p[name] for p in probes] for name in probes[0]}}
        return {name: [round(value, 6) for value in values] for name, values in scores.items()}

    @cached_property
    def _metrics(self) -> dict[str, Metric]:
        return build_metrics(self.common.evaluation.metrics, "cpu")

    @cached_property
    def _photos(self) -> dict[str, list[dict[str, Any]]]:
        """Pairs of every set; read before the first training, since the base comes first."""
        scale = Job.base().options(self.common).scale
        return {
            name: make_validation_set(
                o.dataroot_gt, o.dataroot_lq, scale, o.gt_size, o.seed, o.degradation
            )[: o.max_images]
            for name, o in self.common.evaluation.sets.items()
        }


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
    train_folder, held_out = (out.resolve() / "tune" / name for name in ("train", "held_out"))
    for folder in (train_folder, held_out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for index, photo in enumerate(photos):
        folder = train_folder if (index + 1) % common.held_out_every else held_out
        (folder / photo.name).symlink_to(photo.resolve())
    return train_folder, held_out
