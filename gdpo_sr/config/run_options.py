"""What the section `train` of every stage holds: metrics by name, adapters, optimizer, schedule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from gdpo_sr.option_group import OptionGroup, raise_problems


class MetricOptions(OptionGroup):
    """One image quality metric."""

    metric: str = Field(
        min_length=1,
        description="Name of a pyiqa metric (psnr_y, musiq, niqe, ...), texture_energy or "
        "feature_distance.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments passed to the metric."
    )

    @field_validator("options")
    @classmethod
    def _nothing_from_the_network(cls, options: dict[str, Any]) -> dict[str, Any]:
        """pyiqa would download what such an option names."""
        for key, value in options.items():
            if "://" in str(value):
                raise ValueError(f"{key} is an address: download it, and give the file")
        return options


class LoraOptions(OptionGroup):
    """Low-rank adapters of the UNet, the only thing trained."""

    rank: int = Field(4, ge=1, le=1024, description="Rank of every adapter; the paper: 4.")
    alpha: int | None = Field(
        None, ge=1, description="Adapter scale is alpha / rank; null: peft's default 8."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in front of the adapters.")


class OptimizerOptions(OptionGroup):
    """Optimizer of the generator's adapters."""

    type: Literal["AdamW"] = Field("AdamW", description="Optimizer by its torch name.")
    lr: float = Field(5e-5, gt=0, le=1, description="Learning rate; the paper: 5e-5.")
    betas: tuple[float, float] = Field(
        (0.9, 0.999), description="Decay of the two moments, each at least 0 and less than 1."
    )
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay.")
    eps: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")

    @model_validator(mode="after")
    def _betas_below_one(self) -> OptimizerOptions:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {list(self.betas)}: each must be >= 0 and < 1")
        return self


class SchedulerOptions(OptionGroup):
    """Learning rate over the run."""

    type: Literal["constant", "cosine"] = Field(
        "constant", description="constant, or cosine from lr down to eta_min at total_iter."
    )
    warmup_iter: int = Field(
        0, ge=0, description="Updates of linear warm-up from 0, less than total_iter."
    )
    eta_min: float = Field(0.0, ge=0, description="Learning rate at the end of cosine.")


class DivergenceOptions(OptionGroup):
    """When a run has gone wrong and ends, with exit status 3: loss, gradient or weights are not
    finite, no group has a preference, a reward fails or ties on every candidate.
    """

    window: int = Field(50, ge=1, description="Last updates that are looked at.")
    limit: int = Field(
        20, ge=1, description="Troubled ones among them that end the run, or half of a short run."
    )

    @model_validator(mode="after")
    def _limit_fits(self) -> DivergenceOptions:
        if self.limit > self.window:
            raise ValueError(
                f"limit = {self.limit} must not exceed window = {self.window}: change one"
            )
        return self


class RunOptions(OptionGroup):
    """One run of any stage."""

    total_iter: int = Field(ge=1, description="Optimizer updates.")
    lora: LoraOptions = Field(default_factory=LoraOptions, description="Adapters that are trained.")
    optim_g: OptimizerOptions = Field(
        default_factory=OptimizerOptions, description="Optimizer of the adapters."
    )
    scheduler: SchedulerOptions = Field(
        default_factory=SchedulerOptions, description="Learning rate schedule."
    )
    grad_clip: float = Field(
        1.0, ge=0, description="Largest gradient norm; the paper: 1.0; 0: no clipping."
    )
    accumulation: int = Field(
        1, ge=1, description="Batches whose gradients are averaged into one update."
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = Field(
        "no", description="Precision of the networks in training."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass to save memory."
    )
    channels_last: bool = Field(
        False, description="Keep pictures of the networks with the channel last in memory."
    )
    vae_slicing: bool = Field(
        False,
        description="Have an AutoencoderKL encode and decode one picture at a time.",
    )
    compile: bool = Field(
        False, description="torch.compile UNet and AutoencoderKL: minutes first, then faster."
    )
    cuda_graphs: bool = Field(
        True,
        description="On a GPU record passes of the networks and replay them: faster, and their "
        "memory is kept. Not with compile.",
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="Decay of the moving average of the adapters; 0: off."
    )
    divergence: DivergenceOptions = Field(
        default_factory=DivergenceOptions, description="When a run has gone wrong and ends."
    )

    @model_validator(mode="after")
    def _fields_agree(self) -> RunOptions:
        raise_problems(self._problems())
        return self

    def _problems(self) -> Iterator[str]:
        if self.scheduler.warmup_iter >= self.total_iter:
            yield (
                f"scheduler.warmup_iter = {self.scheduler.warmup_iter} must be less than "
                f"total_iter = {self.total_iter}: shorten the warm-up or train longer"
            )
        if self.scheduler.eta_min > self.optim_g.lr:
            yield (
                f"scheduler.eta_min = {self.scheduler.eta_min} must not exceed "
                f"optim_g.lr = {self.optim_g.lr}: lower eta_min"
            )
