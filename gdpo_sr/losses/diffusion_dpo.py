"""Diffusion-DPO on the best and worst candidate of a group (Wallace et al., 2023; GDPO-SR table
5).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gdpo_sr.types import LossOutput


def diffusion_dpo_loss(
    policy_error: torch.Tensor,
    reference_error: torch.Tensor,
    advantages: torch.Tensor,
    beta: float = 5000.0,
) -> LossOutput:
    """mean_B[-log sigmoid(-beta / 2 * ((l_w - lref_w) - (l_l - lref_l)))].

    Args:
        policy_error, reference_error: (B, G) mean squared prediction errors on the same noisy
            latents; the noise of winner and
            loser must be the same.
        advantages: (B, G); the largest names the winner w, the smallest the loser l. A group that
            ties has no pair and adds
            no gradient.
        beta: strength of the preference.

    Returns:
        scalar loss; logs: `logit`, `logit_abs`, `won`.
    """
    change = policy_error - reference_error
    winner = advantages.argmax(-1, keepdim=True)
    loser = advantages.argmin(-1, keepdim=True)
    pair = (winner != loser).squeeze(-1)
    margin = (change.gather(-1, winner) - change.gather(-1, loser)).squeeze(-1) * pair
    logit = -0.5 * beta * margin
    logs = {
        "logit": logit.detach().mean(),
        "logit_abs": logit.detach().abs().mean(),
        "won": (logit.detach() > 0).float().mean(),
    }
    return LossOutput(-F.logsigmoid(logit).mean(), logs)
