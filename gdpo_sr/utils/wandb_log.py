"""Curves of a run in Weights & Biases: the optional extra `wandb`."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch

from gdpo_sr.types import OptionError

PROJECT = "gdpo_sr"
_ID_FILE = "wandb_id.txt"


def check_wandb() -> None:
    """Raise OptionError if wandb is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise OptionError(
            "logger.use_wandb = true: wandb is not installed; pip install 'gdpo-sr[wandb]', or set "
            "it to false"
        )


class WandbWriter:
    """A writer of `ScalarLog`. Nothing is sent where WANDB_MODE is `offline`.

    Args:
        folder: of the run's logs; wandb's files go below it, and the run's id, so that a run that
            goes on is shown as one.
        name: of the run; the project is `gdpo_sr`, or WANDB_PROJECT.
        config: options to show beside the curves.

    Raises:
        OptionError: nobody is logged in, or the server cannot be reached.
    """

    def __init__(self, folder: Path, name: str, config: dict[str, Any]) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._image = wandb.Image
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=name,
                id=_run_id(folder),
                resume="allow",
                dir=str(folder),
                config=config,
                settings=wandb.Settings(console="off", save_code=False, disable_git=True),
            )
        except wandb.Error as error:
            reason = str(error).strip().splitlines()[0]
            raise OptionError(
                f"logger.use_wandb = true: {reason}; run `wandb login`, set WANDB_MODE=offline, or "
                "set it to false"
            ) from error

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """A point of a curve."""
        self._run.log({tag: value}, step=step)

    def add_image(self, tag: str, image: torch.Tensor, step: int) -> None:
        """A picture (3, H, W) in [0, 1]."""
        self._run.log({tag: self._image(image.permute(1, 2, 0).numpy())}, step=step)

    def close(self) -> None:
        """Send or write what is held back."""
        self._run.finish()


def _run_id(folder: Path) -> str:
    """The same for every start of one run."""
    file = folder / _ID_FILE
    if not file.is_file():
        file.write_text(os.urandom(8).hex(), encoding="ascii")
    return file.read_text(encoding="ascii").strip()
