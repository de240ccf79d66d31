"""What is to be run: studies, their rows, and one job for each row, seed and control."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from gdpo_sr.config.data_options import ValDataOptions
from gdpo_sr.config.degradation import DegradationOptions
from gdpo_sr.config.load import load_options, resolve_folder
from gdpo_sr.config.problems import describe_problems
from gdpo_sr.config.run_options import MetricOptions
from gdpo_sr.config.schema import GDPOOptions
from gdpo_sr.config.yaml_file import read_yaml
from gdpo_sr.option_group import OptionGroup
from gdpo_sr.types import OptionError

CONTROL = "train:control=permuted_advantages"


class Evaluation(OptionGroup):
    """How a trained run is measured, the same for all."""

    metrics: dict[str, MetricOptions] = Field(description="Metrics by their name in the tables.")
    noise_seed: int = Field(1000, ge=0, description="Seed of the noise, the same for all runs.")
    num_noises: int = Field(1, ge=1, description="Noises per photo, averaged.")
    color_fix: Literal["wavelet", "adain", "none"] = Field(
        "wavelet", description="Colours of the LR photo for all, as in inference."
    )
    sets: dict[str, ValDataOptions] = Field(description="Photos by their name in the tables.")


class Common(OptionGroup):
    """What all studies share: research/options/common.yml."""

    options: str = Field(description="Options file that every run starts from.")
    base: str = Field(description="Digest of the base's weights that the studies are run on.")
    force: list[str] = Field(default_factory=list, description="Changes, as --force_yml.")
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="Seeds of every row.")
    evaluation: Evaluation = Field(description="How runs are measured.")
    held_out_every: int = Field(5, ge=2, description="--tune holds out every so many photos.")
    about: str = Field("", description="What a reader must know first, for the document.")
    findings: str = Field("", description="What the tables say in plain words, for the document.")
    tried: str = Field("", description="What was tried in tuning, for the document.")

    def seeds_of(self, study: Study) -> list[int]:
        """The study's own seeds, if it names any."""
        return study.seeds or self.seeds

    def with_sets(self, sets: dict[str, ValDataOptions]) -> Common:
        """Measured on other photos."""
        evaluation = self.evaluation.model_copy(update={"sets": sets})
        return self.model_copy(update={"evaluation": evaluation})

    def only_sets(self, names: list[str]) -> Common:
        """Measured on some of the sets; none named: on all."""
        if missing := set(names) - set(self.evaluation.sets):
            known = ", ".join(self.evaluation.sets)
            raise OptionError(f"--sets {' '.join(sorted(missing))}: known: {known}")
        sets = self.evaluation.sets
        return self.with_sets({name: sets[name] for name in names or sets})

    def with_folders(self, train: Path, held_out: Path) -> Common:
        """Training on one folder, measured on another alone: its photos degraded strongly and, as
        real ones, lightly. One seed.
        """
        photos = {"dataroot_gt": str(held_out), "gt_size": 256}
        light = ValDataOptions(**photos, degradation=DegradationOptions(light_prob=1.0))
        sets = {"held_out": ValDataOptions(**photos), "held_out_light": light}
        force = [*self.force, f"datasets:train:dataroot_gt={train}"]
        return self.with_sets(sets).model_copy(update={"force": force, "seeds": self.seeds[:1]})


class Claim(OptionGroup):
    """A sentence of a paper and the comparison that decides it at this scale."""

    text: str = Field(description="The claim in plain words.")
    source: str = Field(description="Where it is made.")
    better: str = Field(description="Row that should be better.")
    than: str = Field(description="Row that it is compared with, `base` for the untrained base.")
    metrics: list[str] = Field(default_factory=list, description="Empty: the rewarded ones.")
    kind: Literal["better", "not_worse"] = Field(
        "better", description="not_worse: no metric gets significantly worse."
    )


class Row(OptionGroup):
    """One setting."""

    force: tuple[str, ...] = Field((), description="Changes, as --force_yml.")
    train: bool = Field(True, description="false: the base itself, measured with `t_add`.")
    t_add: int | None = Field(None, ge=0, le=999, description="Step of the noise at evaluation.")
    lora_scale: float | None = Field(
        None, ge=0, le=8, description="Scale of what was trained at evaluation; 1 unless given."
    )
    control: bool = Field(True, description="false: its loss ranks nothing that could be permuted.")
    line: str = Field("", description="Rows with one name are joined in the study's picture.")


@dataclass(frozen=True)
class Job:
    """One run: a row, a seed, and whether its advantages are permuted."""

    study: str
    name: str
    row: Row
    seed: int
    control: bool

    @property
    def label(self) -> str:
        """For the terminal."""
        return f"{self.study} {self.name} seed {self.seed}{' control' if self.control else ''}"

    def force(self, common: Common) -> list[str]:
        """All changes of the options file, in the order in which they apply."""
        own = [*common.force, *self.row.force, f"manual_seed={self.seed}"]
        return [*own, CONTROL] if self.control else own

    def options(self, common: Common, more: tuple[str, ...] = ()) -> GDPOOptions:
        """Checked options, with further changes; run name and folders are the runner's matter."""
        return load_options(common.options, [*self.force(common), *more])

    def as_control(self) -> Job:
        """The same with permuted advantages."""
        return replace(self, control=True)

    @staticmethod
    def base() -> Job:
        """The untrained base with its own timesteps."""
        return Job("base", "base", Row(train=False), 0, False)


class Study(OptionGroup):
    """One file of research/options."""

    title: str = Field(description="Heading of the document's section.")
    question: str = Field(description="What the study asks.")
    rows: dict[str, Row] = Field(min_length=1, description="Settings by name.")
    claims: list[Claim] = Field(default_factory=list, description="Claims that it decides.")
    by_set: bool = Field(False, description="A table for each set of photos beside that for all.")
    controls: bool = Field(True, description="Each row beside its control; false only for tuning.")
    seeds: list[int] = Field(
        default_factory=list, description="Seeds of every row; empty: those of common.yml."
    )
    name: str = Field("", description="The file's name; not written in the file.")

    def jobs(self, seed: int) -> list[Job]:
        """Every row with one seed, each followed by its control."""
        jobs = [self.job(name, seed) for name in self.rows]
        return [
            each
            for job in jobs
            for each in ([job, job.as_control()] if self.has_control(job.row) else [job])
        ]

    def has_control(self, row: Row) -> bool:
        """Whether a row stands beside the same run with permuted advantages."""
        return row.train and row.control and self.controls

    def job(self, name: str, seed: int) -> Job:
        """The run of one row and seed."""
        return Job(self.name, name, self.rows[name], seed, False)


def load_studies(folder: Path, only: list[str], tune: bool) -> tuple[Common, list[Study]]:
    """Common settings and studies in the order of their file names.

    Raises:
        OptionError: no such study, or a file that is not as described above.
    """
    file = folder / "common.yml"
    common = _read(file, Common)
    options = resolve_folder(Path(common.options).parent, file) / Path(common.options).name
    common = common.model_copy(update={"options": str(options)})
    files = {
        file.stem: file for file in sorted((folder / "tune" if tune else folder).glob("*.yml"))
    }
    files.pop("common", None)
    if missing := set(only) - set(files):
        raise OptionError(
            f"no study {', '.join(sorted(missing))} in {folder}: known: {', '.join(files)}"
        )
    studies = [_study(file, common) for name, file in files.items() if not only or name in only]
    return common, studies


def _study(file: Path, common: Common) -> Study:
    study = _read(file, Study).model_copy(update={"name": file.stem})
    for row in (row for claim in study.claims for row in (claim.better, claim.than)):
        if row != "base" and row not in study.rows:
            known = ", ".join([*study.rows, "base"])
            raise OptionError(f"{file}: claim names row '{row}', known: {known}")
    return study


def _read(file: Path, kind: type[Any]) -> Any:
    try:
        return kind.model_validate(read_yaml(file))
    except ValidationError as error:
        lines = describe_problems(error, kind, lambda location: str(file))
        raise OptionError("\n".join(lines)) from error
