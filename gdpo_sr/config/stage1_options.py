"""Stage 1, NAOSD: sections `train` and `network_score`. Defaults are the paper's, or where it is
silent the released code's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from gdpo_sr.config.network_options import BaseName
from gdpo_sr.config.run_options import LoraOptions, MetricOptions, OptimizerOptions, RunOptions
from gdpo_sr.option_group import OptionGroup


class ReconstructionOptions(OptionGroup):
    """Pixel error of the restored picture."""

    type: Literal["mse", "l1"] = Field(
        "mse", description="mse: the released code; l1: the paper's text."
    )
    weight: float = Field(1.0, ge=0, description="The released code: 1; 0: off.")


class PerceptualOptions(MetricOptions):
    """One differentiable metric as a loss; whether lower is better is known from the metric."""

    weight: float = Field(1.0, ge=0, description="The released code: 2 for lpips-vgg; 0: off.")


class VSDOptions(OptionGroup):
    """Variational score distillation against the score of the base."""

    weight: float = Field(1.0, ge=0, description="The released code: 1; 0: off.")
    cfg_scale: float = Field(7.5, ge=0, description="Guidance of the frozen base; the paper: 7.5.")
    min_step: float = Field(
        0.02, ge=0, lt=1, description="Smallest noise level, as a share of all timesteps."
    )
    max_step: float = Field(
        0.50, gt=0, le=1, description="Largest noise level, as a share of all timesteps."
    )
    lora: LoraOptions = Field(
        default_factory=LoraOptions, description="Adapters of the fake-score UNet."
    )
    optim: OptimizerOptions = Field(
        default_factory=OptimizerOptions, description="Optimizer of the fake-score UNet's adapters."
    )

    @model_validator(mode="after")
    def _steps_in_order(self) -> VSDOptions:
        if self.min_step >= self.max_step:
            raise ValueError(
                f"min_step = {self.min_step} must be less than max_step = {self.max_step}"
            )
        return self


class EnergyOptions(OptionGroup):
    """Energy score of two restorations of each LR image; not in the paper."""

    weight: float = Field(1.0, ge=0, description="Its share of the loss; 0: off.")
    beta: float = Field(
        0.75, ge=0, le=1, description="Weight of their difference on texture; 0: plain error."
    )


class LossesOptions(OptionGroup):
    """Losses of the generator, added up."""

    reconstruction: ReconstructionOptions = Field(
        default_factory=ReconstructionOptions, description="Pixel error."
    )
    perceptual: dict[str, PerceptualOptions] = Field(
        default_factory=dict, description="Differentiable metrics, by a name for the logs."
    )
    vsd: VSDOptions | None = Field(
        default_factory=VSDOptions, description="Score distillation; null: off."
    )
    energy: EnergyOptions | None = Field(None, description="Energy score; null: off.")

    @model_validator(mode="after")
    def _something_is_minimized(self) -> LossesOptions:
        parts = [self.reconstruction, *self.perceptual.values(), self.vsd, self.energy]
        if not any(part is not None and part.weight > 0 for part in parts):
            raise ValueError("no loss has weight > 0: give reconstruction or another one a weight")
        return self


class ScoreNetworkOptions(OptionGroup):
    """The diffusion model whose score VSD distils, and the texts that it is given."""

    base: BaseName | None = Field(
        None, description="As network_g.base; null: the base of network_g itself."
    )
    revision: str | None = Field(None, min_length=1, description="Commit or tag of a hub id.")
    prompt: str | None = Field(None, description="Positive prompt; null: that of network_g.")
    negative_prompt: str = Field("", description="Text that guidance leads away from.")

    @model_validator(mode="after")
    def _revision_of_base(self) -> ScoreNetworkOptions:
        if self.base is None and self.revision is not None:
            raise ValueError(
                f"revision = {self.revision!r}: base null takes network_g's; remove revision"
            )
        return self


class Stage1TrainOptions(RunOptions):
    """One run of stage 1."""

    total_iter: int = Field(35000, ge=1, description="Optimizer updates; the paper: 35000.")
    generator: Literal["lora", "full"] = Field(
        "lora",
        description="lora: adapters on UNet and VAE encoder, conv_in in full (the paper); full: "
        "every weight of the UNet.",
    )
    noises_per_image: int = Field(
        1, ge=1, le=2, description="Restorations of each LR image per step; the paper: 1."
    )
    losses: LossesOptions = Field(
        default_factory=LossesOptions, description="What the generator minimizes."
    )

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        energy = self.losses.energy
        if energy is not None and energy.weight > 0 and self.noises_per_image != 2:
            yield (
                f"noises_per_image = {self.noises_per_image}: losses.energy compares two "
                "restorations; set noises_per_image: 2 or losses.energy: null"
            )
