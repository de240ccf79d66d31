"""Whether the parts of a base work together, and what their libraries say if they do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.generators.part_config import REMEDY
from gdpo_sr.types import CheckpointError, GDPOSRError
from gdpo_sr.utils.json_file import reason_of


@contextmanager
def told_as_checkpoint_error(folder: Path) -> Iterator[None]:
    """What the libraries say of a damaged part, in one line."""
    try:
        yield
    except GDPOSRError:
        raise
    except Exception as error:  # whatever a library's code makes of values that it does not expect
        raise CheckpointError(
            f"'{folder}' cannot be loaded ({reason_of(error)}): {REMEDY}"
        ) from error


@torch.no_grad()
def try_out(generator: NoiseAwareGenerator, folder: Path) -> None:
    """Restore a small picture, all zeros: configs from anywhere may hold values that
    show only here.

    Raises:
        CheckpointError: it is not restored, or to another size.
    """
    with told_as_checkpoint_error(folder):
        side = 2 * generator.size_multiple  # the smallest leaves some norms a single value
        black = torch.zeros(1, 3, side, side, dtype=generator.vae.dtype)
        noise = torch.zeros(generator.latent_shape(black), dtype=generator.unet.dtype)
        result = generator(black, noise)
        if result.shape != black.shape:
            raise ValueError(f"{side} x {side} pixels become {tuple(result.shape[2:])}")
