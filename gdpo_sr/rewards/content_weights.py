"""The share of texture under the name by which programs outside call it."""

from __future__ import annotations

from gdpo_sr.rewards.texture_share import texture_share as texture_ratio

__all__ = ["texture_ratio"]
