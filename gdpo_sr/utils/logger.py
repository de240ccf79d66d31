"""The package's logger and the TensorBoard writer."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path

import torch
from tqdm import tqdm

NAME = "gdpo_sr"
LOG_BYTES = 20 * 2**20
"""Size at which a log file becomes `<name>.1`, and that one `.2`; older lines are dropped."""
_FORMAT = logging.Formatter("%(asctime)s %(levelname)s: %(message)s", "%Y-%m-%d %H:%M:%S")


class _Console(logging.Handler):
    """Standard error, above a progress bar if one is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def get_logger(
    log_file: str | os.PathLike[str] | None = None, main_process: bool = True
) -> logging.Logger:
    """The logger "gdpo_sr", to the console and, once a `log_file` was named, to that file too.

    Calling it again adds no second console; another `log_file` takes the place of the one before,
    None keeps it.
    Processes other than the main one print errors only and write no file.
    """
    logger = logging.getLogger(NAME)
    logger.propagate = False
    logger.setLevel(logging.INFO if main_process else logging.ERROR)
    if not any(isinstance(h, _Console) for h in logger.handlers):
        _attach(logger, _Console())
    if log_file is not None and main_process:
        _set_file(logger, Path(log_file))
    return logger


class ScalarLog:
    """Numbers and pictures of a run as TensorBoard events in `folder`.

    Args:
        folder: of all events of the run; those of an earlier start stay.
        first_step: events of this step and later ones, of an earlier start, are not shown.
    """

    def __init__(self, folder: str | os.PathLike[str], first_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def add_scalars(self, values: Mapping[str, float | torch.Tensor], step: int) -> None:
        """Write one curve point per name; "train/loss" groups a curve under "train"."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, float(value), step)

    def add_image(self, tag: str, image: torch.Tensor, step: int) -> None:
        """Write a picture (3, H, W), RGB in [0, 1]."""
        self._writer.add_image(tag, image.detach().float().clamp(0, 1).cpu(), step)

    def close(self) -> None:
        """Write what is still held back and close the file."""
        self._writer.close()


def _attach(logger: logging.Logger, handler: logging.Handler) -> None:
    handler.setFormatter(_FORMAT)
    logger.addHandler(handler)


def _set_file(logger: logging.Logger, path: Path) -> None:
    for handler in [h for h in logger.handlers if isinstance(h, logging.FileHandler)]:
        if Path(handler.baseFilename) == path.absolute():
            return
        logger.removeHandler(handler)
        handler.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8")
    _attach(logger, handler)
