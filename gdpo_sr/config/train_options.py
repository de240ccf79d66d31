"""The section `train`: stage 2, Group Direct Preference Optimization. Defaults are the paper's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, model_validator

from gdpo_sr.config.base import OptionGroup, raise_problems


class MetricOptions(OptionGroup):
    """One image quality metric."""

    metric: str = Field(
        min_length=1, description="Name of a pyiqa metric (psnr_y, musiq, niqe, ...)."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments passed to the metric."
    )


class RewardOptions(MetricOptions):
    """One rewarded metric; whether lower is better is known from the metric."""

    weight: float = Field(
        1.0, ge=0, description="Share of this metric among those of its kind; 0: logged only."
    )


class TextureOptions(OptionGroup):
    """How the textured share of an HR image is measured; it weighs perception against fidelity."""

    patch_size: int = Field(10, ge=2, le=256, description="Side of a patch in pixels.")
    threshold: float = Field(
        50.0, ge=0, description="Entropy (bits) times patch area above which a patch is textured."
    )
    grey: Literal["rgb", "bgr"] = Field(
        "rgb", description="Channel order of the grey conversion; bgr: the released code's swap."
    )


class RewardSetOptions(OptionGroup):
    """Attribute-aware reward: fidelity counts in smooth areas, perception in textured ones."""

    fidelity: dict[str, RewardOptions] = Field(
        default_factory=dict, description="Metrics against the HR image, by a name for the logs."
    )
    perception: dict[str, RewardOptions] = Field(
        default_factory=dict, description="Metrics without reference, by a name for the logs."
    )
    texture: TextureOptions = Field(
        default_factory=TextureOptions, description="Measure of the textured share of the HR image."
    )
    fixed_perception_weight: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Weight of perception for every image; null: the image's textured share.",
    )

    @model_validator(mode="after")
    def _something_is_rewarded(self) -> RewardSetOptions:
        raise_problems(self._problems())
        return self

    def _problems(self) -> Iterator[str]:
        options = [*self.fidelity.values(), *self.perception.values()]
        if not any(option.weight > 0 for option in options):
            yield "no reward has weight > 0: give a metric under fidelity or perception a weight"
        for name in sorted(self.fidelity.keys() & self.perception.keys()):
            yield f"{name!r} is under fidelity and under perception: rename one of the two"


class LossOptions(OptionGroup):
    """Preference loss of a group."""

    type: Literal["gdpo"] = Field("gdpo", description="Loss by its registered name.")
    omega: float = Field(5000.0, gt=0, description="Factor of the logit; the paper: 5000.")


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


class TrainOptions(OptionGroup):
    """One run of stage 2."""

    total_iter: int = Field(1500, ge=1, description="Optimizer updates; the paper: 1500.")
    group_size: int = Field(6, ge=2, le=64, description="Candidates per LR image, G; the paper: 6.")
    group_chunk: int | None = Field(
        None, ge=1, le=64, description="Candidates per forward pass, to save memory; null: all G."
    )
    update_input: Literal["candidate", "lr"] = Field(
        "candidate",
        description="What the update adds noise to: each candidate's latent (the paper), or the LR "
        "latent with the noises that made the candidates (target x0).",
    )
    target: Literal["noise", "x0"] = Field(
        "noise", description="Error the loss compares: predicted noise (the paper) or clean latent."
    )
    shared_noise: bool = Field(
        False, description="Add the same noise to all candidates of a group in the update."
    )
    loss: LossOptions = Field(default_factory=LossOptions, description="Preference loss.")
    reward: RewardSetOptions = Field(description="Metrics that rank the candidates of a group.")
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
        False, description="Recompute UNet activations in the backward pass to save memory."
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="Decay of the moving average of the adapters; 0: off."
    )
    control: Literal["none", "permuted_advantages"] = Field(
        "none", description="permuted_advantages: shuffle advantages in the group, to compare with."
    )

    @model_validator(mode="after")
    def _fields_agree(self) -> TrainOptions:
        raise_problems(self._problems())
        return self

    def _problems(self) -> Iterator[str]:
        if self.scheduler.warmup_iter >= self.total_iter:
            yield (
                f"scheduler.warmup_iter = {self.scheduler.warmup_iter} must be less than "
                f"total_iter = {self.total_iter}: shorten the warm-up or train longer"
            )
        if self.update_input == "lr" and (self.target != "x0" or self.shared_noise):
            yield (
                f"update_input = lr needs target = x0 and shared_noise = false, not {self.target} "
                f"and {str(self.shared_noise).lower()}: change them, or use update_input: candidate"
            )
        if self.scheduler.eta_min > self.optim_g.lr:
            yield (
                f"scheduler.eta_min = {self.scheduler.eta_min} must not exceed "
                f"optim_g.lr = {self.optim_g.lr}: lower eta_min"
            )
        if self.group_chunk is not None and self.group_chunk > self.group_size:
            yield (
                f"group_chunk = {self.group_chunk} must not exceed "
                f"group_size = {self.group_size}: lower it, or null for the whole group"
            )
