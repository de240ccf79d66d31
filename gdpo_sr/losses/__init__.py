"""Losses: pure functions that return `LossOutput(loss, logs)`."""

from gdpo_sr.losses.diffusion_dpo import diffusion_dpo_loss
from gdpo_sr.losses.gdpo_loss import gdpo_loss
from gdpo_sr.losses.grpo import grpo_loss
from gdpo_sr.losses.multi_pair_dpo import multi_pair_dpo_loss
from gdpo_sr.losses.regression import reward_weighted_loss, sft_best_loss
from gdpo_sr.losses.vsd_loss import vsd_loss
from gdpo_sr.types import LossOutput

__all__ = [
    "LossOutput",
    "diffusion_dpo_loss",
    "gdpo_loss",
    "grpo_loss",
    "multi_pair_dpo_loss",
    "reward_weighted_loss",
    "sft_best_loss",
    "vsd_loss",
]
