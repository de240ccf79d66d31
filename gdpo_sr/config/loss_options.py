"""The section `train.loss`: one group of options for every loss, chosen by `type`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from gdpo_sr.config.base import OptionGroup

Strength = Annotated[
    Annotated[float, Field(gt=0), Tag("number")] | Annotated[Literal["auto"], Tag("word")],
    Discriminator(lambda value: "word" if value == "auto" else "number"),
]
"""Factor of a logit, or `auto`: kept so that the mean absolute logit stays near 1."""


class GDPOLossOptions(OptionGroup):
    """All candidates of a group, each weighted by its advantage (the paper)."""

    type: Literal["gdpo"] = Field("gdpo", description="Loss by its registered name.")
    omega: Strength = Field(
        5000.0, description="Factor of the logit; the paper: 5000; auto: mean |logit| near 1."
    )


class DiffusionDPOLossOptions(OptionGroup):
    """The best candidate of a group against the worst."""

    type: Literal["diffusion_dpo"] = Field(description="Loss by its registered name.")
    beta: Strength = Field(
        5000.0, description="Factor of the logit; the paper: 5000; auto: mean |logit| near 1."
    )


class MultiPairDPOLossOptions(OptionGroup):
    """The best few against the worst few, with hierarchical weights (DP2O-SR)."""

    type: Literal["multi_pair_dpo"] = Field(description="Loss by its registered name.")
    beta: Strength = Field(5000.0, description="Factor of the logit; auto: mean |logit| near 1.")
    fraction: float = Field(
        0.25, gt=0, le=0.5, description="Share of a group that wins, and that loses."
    )


class GRPOLossOptions(OptionGroup):
    """Gaussian policy on the one-step output (DanceGRPO); best with sampler: policy."""

    type: Literal["grpo"] = Field(description="Loss by its registered name.")
    sigma: float = Field(
        0.1, gt=0, le=10, description="Standard deviation of the action noise, in latent units."
    )
    clip: float = Field(1e-4, gt=0, lt=1, description="Half-width of the ratio's trust region.")
    advantage_clip: float = Field(5.0, gt=0, description="Largest absolute advantage.")
    kl_weight: float = Field(0.0, ge=0, description="Weight of the divergence from the reference.")


class RewardWeightedLossOptions(OptionGroup):
    """Imitation of all candidates, weighted by their advantage."""

    type: Literal["reward_weighted"] = Field(description="Loss by its registered name.")
    temperature: float = Field(
        1.0, gt=0, description="Weights are softmax(advantage / temperature)."
    )


class SFTBestLossOptions(OptionGroup):
    """Imitation of the best candidate."""

    type: Literal["sft_best"] = Field(description="Loss by its registered name.")


def loss_type(value: Any) -> str | None:
    """Which of the groups a value is for: its `type`, "gdpo" where none is given."""
    if isinstance(value, dict):
        return value.get("type", "gdpo")
    return getattr(value, "type", None)


LossOptions = Annotated[
    Annotated[GDPOLossOptions, Tag("gdpo")]
    | Annotated[DiffusionDPOLossOptions, Tag("diffusion_dpo")]
    | Annotated[MultiPairDPOLossOptions, Tag("multi_pair_dpo")]
    | Annotated[GRPOLossOptions, Tag("grpo")]
    | Annotated[RewardWeightedLossOptions, Tag("reward_weighted")]
    | Annotated[SFTBestLossOptions, Tag("sft_best")],
    Discriminator(loss_type),
]
