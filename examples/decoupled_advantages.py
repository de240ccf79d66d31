"""Why rewards are normalised one by one: the toy example of NVIDIA's GDPO (arXiv 2601.05242).

Run: python examples/decoupled_advantages.py

Two binary rewards, groups of two candidates. The first candidate earns nothing; the second earns
one reward or both. Normalising the sum (GRPO) cannot tell the two cases apart; normalising each
reward on its own can, as long as the batch holds more than one group.
"""

from __future__ import annotations

import torch

from gdpo_sr.advantages import decoupled_advantages, decoupled_totals, group_advantages

ONE = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
"""Rewards (K, G) of a group whose second candidate earns the first reward only: totals (0, 1)."""
BOTH = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
"""The same where it earns both: totals (0, 2)."""


def advantages(*groups: torch.Tensor) -> dict[str, torch.Tensor]:
    """Advantages (B, G) of groups (K, G), by the way that they are computed."""
    rewards = torch.stack(groups, dim=1)  # (K, B, G)
    weights = [1.0] * len(rewards)
    return {
        "GRPO: sum, then z-score": group_advantages(rewards.sum(0)),
        "GDPO: z-score, then sum": decoupled_totals(rewards, weights),
        "GDPO after the batch step": decoupled_advantages(rewards, weights),
    }


def table(title: str, *groups: torch.Tensor) -> str:
    """Advantages of the second candidate of every group, one line a way."""
    lines = [title, f"{'':28}" + "".join(f"{g.sum(0).tolist()!s:>14}" for g in groups)]
    for name, values in advantages(*groups).items():
        lines.append(f"{name:28}" + "".join(f"{value:>14.4f}" for value in values[:, 1].tolist()))
    return "\n".join(lines)


def main() -> None:
    """Print the two tables."""
    print(table("Two groups in one batch; columns: totals of the two candidates", ONE, BOTH))
    print()
    print(table("Each group alone in its batch: the batch step undoes the difference", BOTH))
    print("Hence train.advantage.type: decoupled gathers over processes and accumulation steps.")


if __name__ == "__main__":
    main()
