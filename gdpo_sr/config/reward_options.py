"""The sections `train.reward` and `train.advantage`: from candidates to advantages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from gdpo_sr.config.run_options import MetricOptions
from gdpo_sr.option_group import OptionGroup, raise_problems


class RewardOptions(MetricOptions):
    """One reward: a metric, or a function of the user's."""

    metric: str | None = Field(
        None,
        min_length=1,
        description="Name of a pyiqa metric (maniqa-pipal is not maniqa), texture_energy or "
        "feature_distance.",
    )
    reward: str | None = Field(
        None,
        min_length=1,
        description="A reward of your own by its registered name, or module.function.",
    )
    weight: float = Field(
        1.0, ge=0, description="Share of this reward among those of its kind; 0: logged only."
    )
    direction: Literal["auto", "higher", "lower"] = Field(
        "auto", description="Which score is better; auto: as pyiqa says, higher for own rewards."
    )
    chunk: int | None = Field(
        None, ge=1, description="Images scored at a time, to save memory; null: all B x G at once."
    )
    precision: Literal["float32", "tf32", "fp16", "bf16"] = Field(
        "float32",
        description="Of a metric's network; tf32: float32 with products of 10 bits on a GPU.",
    )
    random_flip: bool = Field(
        False,
        description="Turn each whole group upside down with probability 0.5: MANIQA's grid of "
        "crops never meets the lowest rows.",
    )

    @model_validator(mode="after")
    def _fields_agree(self) -> RewardOptions:
        raise_problems(self._problems())
        return self

    def _problems(self) -> Iterator[str]:
        if (self.metric is None) == (self.reward is None):
            yield f"metric = {self.metric} and reward = {self.reward}: give one of the two"
        if self.reward is not None:
            for name in ("chunk", "precision", "random_flip"):
                if (value := getattr(self, name)) != type(self).model_fields[name].default:
                    yield f"{name} = {value}: only for metric; a reward of your own does it itself"


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

    user_modules: list[str] = Field(
        default_factory=list,
        description="Python files (my_rewards.py) or modules (my_package.rewards) that register "
        "rewards; they are imported when a run starts.",
    )
    fidelity: dict[str, RewardOptions] = Field(
        default_factory=dict, description="Metrics against the HR image, by a name for the logs."
    )
    perception: dict[str, RewardOptions] = Field(
        default_factory=dict,
        description="Metrics of how a picture looks (the paper's have no reference), by a name for "
        "the logs.",
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
    color_fix: Literal["wavelet", "adain", "none"] = Field(
        "none",
        description="Rewards see the candidates with the colours of their LR picture, as inference "
        "gives them out; none: as they are decoded.",
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


class AdvantageOptions(OptionGroup):
    """From the rewards of a group to the advantages of its candidates."""

    type: Literal["group", "decoupled", "mean_only", "batch_std"] = Field(
        "group",
        description="group: z-score (the paper); decoupled: each reward alone, then the batch "
        "(NVIDIA's GDPO); mean_only: no division; batch_std: spread of the batch.",
    )
    clip: float | None = Field(
        None, gt=0, description="Largest absolute advantage; null: no limit."
    )
