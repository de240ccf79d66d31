"""One run, one owner: a lock beside the run's folder, which ends with its process."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from gdpo_sr.types import OptionError

BUSY = (errno.EAGAIN, errno.EACCES)


@contextmanager
def run_lock(folder: Path, logger: logging.Logger) -> Iterator[None]:
    """Inside, no other process can start or resume the run of this folder.

    The system frees the lock of a process that dies, on this machine and on others that share the
    file system, so what is left of one is taken over.

    Raises:
        OptionError: another process has it, or the folder above cannot be written.
    """
    folder = Path(os.path.realpath(folder))  # one run by two names has one lock
    file = folder.with_name(f".{folder.name}.lock")
    stream = _taken(file, folder, logger)
    try:
        yield
    finally:
        with suppress(OSError):  # a disk that turned read-only keeps it; it is not held
            file.unlink(missing_ok=True)
        stream.close()


def _taken(file: Path, folder: Path, logger: logging.Logger) -> TextIO:
    """The lock's file, opened and held."""
    while True:
        stream = _open(file)
        try:
            _take(stream, folder, logger)
        except OptionError:
            stream.close()
            raise
        if _is(stream, file):
            return stream
        stream.close()  # the owner before removed it after we had opened it


def _is(stream: TextIO, file: Path) -> bool:
    """Whether an opened file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    except FileNotFoundError:
        return False


def _open(file: Path) -> TextIO:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        return os.fdopen(os.open(file, flags, 0o666), "a+", encoding="utf-8")
    except OSError as error:
        raise OptionError(
            f"{file.parent}: cannot be written: {error.strerror}; "
            "choose another path.experiments_root or name"
        ) from error


def _take(stream: TextIO, folder: Path, logger: logging.Logger) -> None:
    stream.seek(0)
    before = _owner(stream.read())
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in BUSY:  # a file system without locks
            logger.warning("%s: no lock (%s): start no run of this name twice", folder, error)
            return
        raise OptionError(
            f"{folder}: this run is in the hands of {before or 'another process'}: wait until it "
            "ends, stop it, or give another name"
        ) from error
    if before:
        logger.warning("%s: the lock of %s, which is gone, is taken over", folder, before)
    stream.truncate(0)
    owner = {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%F %T")}
    stream.write(json.dumps(owner))
    stream.flush()


def _owner(text: str) -> str:
    """Who wrote the lock, in words; "" if nobody did or it cannot be read."""
    try:
        values = json.loads(text)
        return f"process {values['pid']} on {values['host']} since {values['since']}"
    except (ValueError, LookupError, TypeError):
        return ""
