"""The root of an options file and its small sections. Sections and key names follow BasicSR."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator, model_validator

from gdpo_sr.config.data_options import DatasetOptions
from gdpo_sr.config.network_options import NetworkOptions
from gdpo_sr.config.run_options import MetricOptions, RunOptions
from gdpo_sr.config.stage1_options import ScoreNetworkOptions, Stage1TrainOptions
from gdpo_sr.config.train_options import TrainOptions
from gdpo_sr.option_group import OptionGroup, raise_problems


class PathOptions(OptionGroup):
    """Where a run is written and what it starts from."""

    experiments_root: str = Field(
        "experiments", min_length=1, description="Folder of all runs, from the working directory."
    )
    pretrain_lora: str | None = Field(
        None, min_length=1, description="Folder of saved adapters to start from."
    )
    resume_state: str | None = Field(
        None, min_length=1, description="Training state to continue from; see also --auto_resume."
    )


class ValOptions(OptionGroup):
    """Comparison of policy and base on the validation photos with the same noise."""

    val_freq: int = Field(
        500, ge=0, description="Updates between validations; 0: only at the start and the end."
    )
    metrics: dict[str, MetricOptions] = Field(
        default_factory=dict, description="Held-out metrics: reported, never rewarded."
    )
    save_img: bool = Field(True, description="Save the validation pictures.")
    noise_seed: int = Field(0, ge=0, lt=2**31, description="Seed of the validation noise.")
    num_noises: int = Field(1, ge=1, le=64, description="Noises per photo, averaged in the table.")
    color_fix: Literal["wavelet", "adain", "none"] = Field(
        "wavelet", description="Colours of the LR photo for base and policy, as in inference."
    )


class LoggerOptions(OptionGroup):
    """What is told about a run, and how often, in updates."""

    print_freq: int = Field(10, ge=1, description="Updates between log lines.")
    save_checkpoint_freq: int = Field(100, ge=1, description="Updates between checkpoints.")
    keep_checkpoints: int = Field(3, ge=1, description="Newest checkpoints that are kept.")
    use_tb_logger: bool = Field(True, description="Write TensorBoard scalars and pictures.")
    use_wandb: bool = Field(
        False,
        description="The same to Weights & Biases (pip install 'gdpo-sr[wandb]'); with "
        "WANDB_MODE=offline nothing is sent.",
    )
    show_progress: bool = Field(True, description="Show a progress bar on a terminal.")


class Options(OptionGroup):
    """What the options files of all stages hold; `model_type` says which of them a file is for."""

    name: str = Field(
        min_length=1, max_length=100, description="Name of the run and of its folder; no slashes."
    )
    model_type: str = Field(description="Trainer by its registered name.")
    scale: int = Field(4, ge=1, le=8, description="Enlargement of the LR image.")
    manual_seed: int = Field(0, ge=0, lt=2**31, description="Seed of everything random in a run.")
    num_threads: int | None = Field(
        None, ge=1, le=1024, description="torch threads per process; null: torch's own choice."
    )
    datasets: DatasetOptions = Field(description="Training and validation photos.")
    network_g: NetworkOptions = Field(
        default_factory=NetworkOptions, description="The generator that is tuned."
    )
    path: PathOptions = Field(default_factory=PathOptions, description="Folders and start states.")
    train: RunOptions = Field(description="The optimization.")
    val: ValOptions = Field(default_factory=ValOptions, description="Validation.")
    logger: LoggerOptions = Field(default_factory=LoggerOptions, description="Logs, checkpoints.")

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str) -> str:
        plain = name.isprintable() and name == name.strip() and name not in (".", "..")
        if not plain or set(name) & set("/\\"):
            raise ValueError("must be a plain folder name: no slash, no space at either end")
        return name

    @model_validator(mode="after")
    def _sections_agree(self) -> Options:
        raise_problems(self._problems())
        return self

    def _problems(self) -> Iterator[str]:
        sizes = {"train": self.datasets.train.gt_size, "val": self.datasets.val.gt_size}
        for part, size in sizes.items():
            if size is not None and size % self.scale:
                larger = size - size % self.scale + self.scale
                yield (
                    f"datasets.{part}.gt_size = {size} must be a multiple of scale = {self.scale}: "
                    f"use {larger}"
                )


class GDPOOptions(Options):
    """An options file of stage 2."""

    model_type: Literal["GDPOModel"] = Field("GDPOModel", description="GDPOModel: stage 2.")
    train: TrainOptions = Field(description="The optimization.")

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        cell, crop = self.train.cell_size, self.datasets.train.gt_size
        if cell is not None and crop % cell:
            yield (
                f"train.cell_size = {cell} must divide datasets.train.gt_size = {crop}: change one"
            )
        rewarded = {**self.train.reward.fidelity, **self.train.reward.perception}
        for name in sorted(self.val.metrics.keys() & rewarded.keys()):
            yield (
                f"val.metrics.{name} is also a reward, so it is not held out: remove it "
                "(validation reports every reward anyway) or rename it"
            )


class NAOSDOptions(Options):
    """An options file of stage 1."""

    model_type: Literal["NAOSDModel"] = Field(description="NAOSDModel: stage 1.")
    network_score: ScoreNetworkOptions = Field(
        default_factory=ScoreNetworkOptions, description="The diffusion model that VSD distils."
    )
    train: Stage1TrainOptions = Field(
        default_factory=Stage1TrainOptions, description="The optimization."
    )

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        trained = {"psnr_y", *self.train.losses.perceptual}
        for name in sorted(self.val.metrics.keys() & trained):
            yield f"val.metrics.{name} is reported by validation anyway: remove it or rename it"
        if self.train.generator == "full" and self.path.pretrain_lora is not None:
            yield (
                f"path.pretrain_lora = {self.path.pretrain_lora!r}: train.generator full has no "
                "adapters; merge them and give the merged folder as network_g.base"
            )


STAGES: dict[str, type[Options]] = {"GDPOModel": GDPOOptions, "NAOSDModel": NAOSDOptions}
"""Options by `model_type`."""
