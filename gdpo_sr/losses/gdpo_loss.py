"""Group Direct Preference Optimization loss (GDPO-SR, arXiv 2603.16769, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gdpo_sr.types import LossOutput


def preference_margin(
    policy_error: torch.Tensor, reference_error: torch.Tensor, advantages: torch.Tensor
) -> torch.Tensor:
    """S = sum_i A_i (l_i - lref_i) per image: negative when the policy moved towards the better
    candidates; (B,).
    """
    return (advantages * (policy_error - reference_error)).sum(-1)


def gdpo_loss(
    policy_error: torch.Tensor,
    reference_error: torch.Tensor,
    advantages: torch.Tensor,
    omega: float = 5000.0,
) -> LossOutput:
    """mean_B[-log sigmoid(-omega / 2 * S)].

    Args:
        policy_error: l (B, G), mean squared prediction error of the policy per candidate.
        reference_error: lref (B, G), of the reference on the same noisy latents.
        advantages: A (B, G), mean 0 per row; a row of zeros adds a constant ln 2 and no gradient.
        omega: strength of the preference; depends on the size of the errors (5000 in the paper).

    Returns:
        scalar loss; logs: `logit` (mean of -omega/2 S), `logit_abs`, `won` (share of groups with S
        < 0).
    """
    margin = preference_margin(policy_error, reference_error, advantages)
    logit = -0.5 * omega * margin
    return LossOutput(-F.logsigmoid(logit).mean(), _logs(logit.detach()))


def _logs(logit: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "logit": logit.mean(),
        "logit_abs": logit.abs().mean(),
        "won": (logit > 0).float().mean(),
    }


def group_gradient_scale(margin: torch.Tensor, omega: float = 5000.0) -> torch.Tensor:
    """k = omega/2 * sigmoid(omega/2 * S), per image (B,): d loss_b / d l_i = k_b A_i.

    With it a group can be processed in micro-batches: accumulate grad(A_i l_i), then scale by k
    (ALGORITHM 3, last identity).
    """
    return 0.5 * omega * torch.sigmoid(0.5 * omega * margin)
