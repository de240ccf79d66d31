"""Rewards by region: fidelity of the smooth area, perception of the textured area.

Both are scored on composites, so that any metric can be used, whole pictures only included.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from gdpo_sr.group.score import score_candidates
from gdpo_sr.rewards.base import Kind, Reward


def composite(
    kind: Kind, candidates: torch.Tensor, hr: torch.Tensor, texture: torch.Tensor
) -> torch.Tensor:
    """Candidates that differ from one another in one region only; (B, G, 3, H, W) in [0, 1].

    Fidelity: the textured area is the HR picture's, so it adds no error; PSNR of the composite is
    the masked PSNR of the smooth area plus a constant of the picture, which every estimator
    removes. Perception: the smooth area is the mean of the group. Then all candidates share it, it
    is smooth as theirs is, and the seams are as small as the candidates' differences; the HR's
    grain beside a candidate's texture would be scored as an artefact of its own.

    Args:
        kind: "fidelity" or "perception".
        candidates: (B, G, 3, H, W) in [0, 1].
        hr: (B, 3, H, W) in [0, 1].
        texture: (B, 1, H, W), 1 where textured, 0 where smooth, from `texture_map`.
    """
    textured = texture[:, None].bool()
    if kind == "fidelity":
        return torch.where(textured, hr[:, None], candidates)
    return torch.where(textured, candidates, candidates.mean(1, keepdim=True))


def score_regions(
    rewards: Mapping[str, Reward],
    candidates: torch.Tensor,
    hr: torch.Tensor,
    texture: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """As `score_candidates`, each reward on the region of its kind; {name: (B, G)}."""
    scores: dict[str, torch.Tensor] = {}
    for kind in ("fidelity", "perception"):
        of_kind = {name: reward for name, reward in rewards.items() if reward.kind == kind}
        if of_kind:
            scores.update(score_candidates(of_kind, composite(kind, candidates, hr, texture), hr))
    return {name: scores[name] for name in rewards}


def latent_texture(texture: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Textured share of the pixels under every latent element; (B, 1, H, W) -> (B, h, w).

    The mean over the elements is the mean over the pixels where h divides H and w divides W.
    """
    return F.adaptive_avg_pool2d(texture, size)[:, 0]


def advantage_map(
    smooth: torch.Tensor, textured: torch.Tensor, share: torch.Tensor
) -> torch.Tensor:
    """Advantage of every latent element: that of its region, by area where regions meet.

    Args:
        smooth, textured: (B, G), advantages of the two regions.
        share: (B, h, w), textured share of every element.

    Returns:
        (B, G, h, w).
    """
    share = share[:, None].to(smooth)
    return (1 - share) * smooth[..., None, None] + share * textured[..., None, None]
