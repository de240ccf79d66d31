"""Lapped orthogonal transform: block transform whose kernels overlap and fade out at their ends.

Source: Malvar and Staelin, "The LOT: transform coding without blocking effects" (1989).
"""

from __future__ import annotations

import torch

CORRELATION = 0.95
"""Between neighbouring pixels: the value that coding theory uses for photographs."""


def lapped_basis(hop: int = 4) -> torch.Tensor:
    """Transform of one dimension, (hop, 2 hop) for an even hop, smoothest row first.

    Rows are orthonormal, also to rows shifted by a multiple of the hop, and each is even or odd.
    Even and odd cosine vectors of two neighbouring blocks are combined, then rotated so that the
    coefficients of a first-order Markov signal are uncorrelated.
    """
    n = torch.arange(hop, dtype=torch.float64)
    cosines = torch.cos((2 * n[:, None] + 1) * n * torch.pi / (2 * hop)) * (2 / hop) ** 0.5
    cosines[:, 0] /= 2**0.5
    half = (cosines[:, 0::2] - cosines[:, 1::2]) / 2
    lags = (torch.arange(2 * hop)[:, None] - torch.arange(2 * hop)).abs()
    covariance = CORRELATION ** lags.double()
    variances, rows = [], []
    for sign in (1, -1):
        part = torch.cat([half, sign * half.flip(0)])
        values, rotation = torch.linalg.eigh(part.T @ covariance @ part)
        variances.append(values)
        rows.append((part @ rotation).T)
    order = torch.cat(variances).argsort(descending=True)
    return torch.cat(rows)[order].float()


def lapped_kernels(colours: torch.Tensor, hop: int = 4) -> torch.Tensor:
    """All products of a colour, a row and a column: orthonormal (3 hop^2, 3, 2 hop, 2 hop).

    `colours` (3, 3) has orthonormal rows. The order is smoothest first, colours taking turns.
    """
    basis = lapped_basis(hop)
    products = torch.einsum("kc,ia,jb->ijkcab", colours.to(basis), basis, basis)
    frequency = torch.arange(hop)[:, None] + torch.arange(hop)
    order = frequency.flatten().argsort(stable=True)
    return products.flatten(0, 1)[order].flatten(0, 1)
