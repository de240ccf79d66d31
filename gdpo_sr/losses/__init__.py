"""Losses: pure functions that return `LossOutput(loss, logs)`, and those of stage 2 by name.

Every file of this folder is imported, so that a loss is added by adding its file.
"""

import importlib
import pkgutil

from gdpo_sr.losses.base import LOSSES, OPTIONS, GroupErrors, GroupLoss, RewardValues
from gdpo_sr.losses.dgpo import dgpo_loss
from gdpo_sr.losses.diffusion_dpo import diffusion_dpo_loss
from gdpo_sr.losses.diffusion_nft import diffusion_nft_loss
from gdpo_sr.losses.gdpo_loss import gdpo_loss
from gdpo_sr.losses.grpo import grpo_loss
from gdpo_sr.losses.reward_gradient import reward_gradient_loss
from gdpo_sr.losses.reward_weighted import reward_weighted_loss
from gdpo_sr.losses.sft_best import sft_best_loss
from gdpo_sr.losses.vsd_loss import vsd_loss
from gdpo_sr.types import LossOutput

for _file in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_file.name)

__all__ = [
    "LOSSES",
    "OPTIONS",
    "GroupErrors",
    "GroupLoss",
    "LossOutput",
    "RewardValues",
    "dgpo_loss",
    "diffusion_dpo_loss",
    "diffusion_nft_loss",
    "gdpo_loss",
    "grpo_loss",
    "reward_gradient_loss",
    "reward_weighted_loss",
    "sft_best_loss",
    "vsd_loss",
]
