"""One noise for a whole picture, of which any tile can draw its part."""

from __future__ import annotations

import hashlib

import torch

BLOCK = 32  # side of a block in latent pixels; part of what a seed means


class NoiseField:
    """Standard normal noise over the latent plane, a function of seed and position alone.

    The plane is cut into blocks; each is drawn on the CPU from a generator seeded by the seed and
    the block's place. So tiling, batches, devices and other pictures do not change it.

    Args:
        seed: of the field.
        channels: c of the latents.
    """

    def __init__(self, seed: int, channels: int) -> None:
        self.seed, self.channels = seed, channels

    def window(self, top: int, bottom: int, left: int, right: int) -> torch.Tensor:
        """(c, bottom - top, right - left) float32 on the CPU; positions from 0."""
        rows = range(top // BLOCK, -(-bottom // BLOCK))
        columns = range(left // BLOCK, -(-right // BLOCK))
        blocks = [torch.cat([self._block(row, column) for column in columns], 2) for row in rows]
        y, x = top - rows.start * BLOCK, left - columns.start * BLOCK
        return torch.cat(blocks, 1)[:, y : y + bottom - top, x : x + right - left]

    def _block(self, row: int, column: int) -> torch.Tensor:
        digest = hashlib.sha256(f"{self.seed}/{row}/{column}".encode()).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.randn(self.channels, BLOCK, BLOCK, generator=rng)


def draw_seed(rng: torch.Generator) -> int:
    """Seed of the next field."""
    return int(torch.randint(2**62, (1,), generator=rng, device=rng.device))
