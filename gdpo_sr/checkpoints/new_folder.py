"""Write a folder so that it appears complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gdpo_sr.types import CheckpointError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` at the end, or vanishes after an error.

    Raises:
        CheckpointError: `folder` exists or cannot be written.
    """
    refuse_existing(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, folder)
    except OSError as error:
        raise CheckpointError(
            f"'{folder}' cannot be written ({error.strerror or error}): give another folder with -o"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(folder: Path) -> None:
    """Raise CheckpointError if `folder` exists: nothing is overwritten."""
    if folder.exists():
        raise CheckpointError(f"'{folder}' exists: give another folder with -o, or remove it")
