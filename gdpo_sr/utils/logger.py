"""The package's logger, and curves and pictures of a run."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Protocol

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


class _File(RotatingFileHandler):
    """A log file of bounded size."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, logging's name
        """Lines that do not fit on a full disk are lost; the console has them."""


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


class Writer(Protocol):
    """Where curves and pictures go, as TensorBoard's SummaryWriter takes them."""

    def add_scalar(self, tag: str, value: float, step: int) -> None: ...

    def add_image(self, tag: str, image: torch.Tensor, step: int) -> None: ...

    def close(self) -> None: ...


def tensorboard_writer(folder: str | os.PathLike[str], first_step: int | None = None) -> Writer:
    """TensorBoard events in `folder`.

    Args:
        folder: of all events of the run; those of an earlier start stay.
        first_step: events of this step and later ones, of an earlier start, are not shown.
    """
    from torch.utils.tensorboard import SummaryWriter

    if threading.excepthook is not _without_tensorboard:
        _hooks.append(threading.excepthook)
        threading.excepthook = _without_tensorboard
    return SummaryWriter(str(folder), purge_step=first_step)


_hooks: list[Callable[[threading.ExceptHookArgs], object]] = []


def _without_tensorboard(failed: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread hands its error on, so that the trace says nothing that `ScalarLog` does
    not.
    """
    if not type(failed.thread).__module__.startswith("tensorboard."):
        _hooks[-1](failed)


class ScalarLog:
    """Numbers and pictures of a run, given to each of `writers`."""

    def __init__(self, *writers: Writer) -> None:
        self._writers = list(writers)

    def add_scalars(self, values: Mapping[str, float | torch.Tensor], step: int) -> None:
        """Write one curve point per name; "train/loss" groups a curve under "train"."""
        for tag, value in values.items():
            tag = tag.encode(errors="replace").decode()  # names may hold half a character
            self._each("add_scalar", tag, float(value), step)

    def add_image(self, tag: str, image: torch.Tensor, step: int) -> None:
        """Write a picture (3, H, W), RGB in [0, 1]."""
        self._each("add_image", tag, image.detach().float().clamp(0, 1).cpu(), step)

    def close(self) -> None:
        """Write what is still held back and close the files."""
        self._each("close")

    def _each(self, method: str, *values: Any) -> None:
        """Curves are worth a warning, not a run: a writer that cannot write is left out."""
        for writer in list(self._writers):
            try:
                getattr(writer, method)(*values)
            except OSError as error:
                self._writers.remove(writer)
                name = type(writer).__name__
                logging.getLogger(NAME).warning("no more curves by %s: %s", name, error)


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
    if path.is_symlink():  # of another's making: not followed
        path.unlink()
    handler = _File(path, maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8")
    _attach(logger, handler)
