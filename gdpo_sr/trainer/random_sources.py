"""Every source of randomness of a run, by name, so that all of them can be saved and restored
together.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from gdpo_sr.shared_random import SharedGenerator


class RandomSources:
    """Named torch generators, each seeded by (seed, name) and independent of the others.

    Their state is the same in all processes; of what is drawn by rows each process keeps its own
    (`SharedGenerator`).

    Args:
        seed: `manual_seed` of the run.
        names: what they are for, such as "degradation".
        rank, world: this process and how many there are.
    """

    def __init__(self, seed: int, names: tuple[str, ...], rank: int = 0, world: int = 1) -> None:
        self._generators = {name: SharedGenerator(rank, world) for name in names}
        for name, generator in self._generators.items():
            generator.manual_seed(_seed_of(seed, name))

    def __getitem__(self, name: str) -> torch.Generator:
        return self._generators[name]

    def state_dict(self) -> dict[str, Any]:
        """States of the named generators and of the global ones that libraries may use."""
        version, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
        state = {
            "named": {name: g.get_state() for name, g in self._generators.items()},
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [version, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
            "python": random.getstate(),
        }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, generator in self._generators.items():
            generator.set_state(state["named"][name])
        torch.set_rng_state(state["torch"])
        if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
        version, keys, position, has_gauss, gauss = state["numpy"]
        np.random.set_state((version, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))


def _seed_of(seed: int, name: str) -> int:
    words = [seed, 0, *name.encode()]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) % 2**63
