"""The one writer of files and folders: each appears whole or not at all, whenever a process dies.

What is written lies under a short temporary name beside its place, is flushed to the disk, and then
changes places with what was there in one step of the file system. A reader never meets half a model
and never none where there was one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gdpo_sr.types import CheckpointError, OptionError

_HERE = -100  # AT_FDCWD of Linux: names are relative to the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` at the end, or vanishes after an error.

    Parents are made. Files get the modes of the umask, whoever wrote them.

    Raises:
        CheckpointError: it cannot be written.
    """
    folder = Path(os.path.realpath(folder))
    with _told(folder):
        recover(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(folder)
        _remove(temporary)
        try:
            temporary.mkdir()
            yield temporary
            _flush_tree(temporary)
            _put(temporary, folder)
        finally:
            _remove(temporary)


def write_file(file: str | Path, content: bytes | str) -> None:
    """Write a file, text as UTF-8; parents are made, and a link is replaced, not followed. Bytes of
    file names that are no UTF-8 become ``\\udc..`` in a text, which JSON reads back.

    Raises:
        CheckpointError: it cannot be written.
    """
    file = _in_place(file)
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    with _told(file):
        recover(file)
        _replace(file, data, _flush)
        _flush(file.parent)


def write_result(file: Path, content: bytes) -> None:
    """Write one of many files that can each be made again: it appears whole or not at all.

    Unlike `write_file` it replaces a link and does not follow it, and does not wait for the disk.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    _replace(file, content, flush=lambda temporary: None)


def _replace(file: Path, content: bytes, flush: Callable[[Path], None]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(file)
    try:
        temporary.write_bytes(content)
        flush(temporary)
        os.replace(temporary, file)
    finally:
        _remove(temporary)


def remove_folder(folder: Path) -> None:
    """Remove a folder that may be missing; from the first moment on it is not there."""
    if folder.is_dir():
        with _told(folder):
            temporary = _temporary(folder)
            os.replace(folder, temporary)
            _remove(temporary)


def clean_leftovers(folder: Path) -> None:
    """Remove what killed writers and removals left in a folder that nobody else writes now."""
    for left in folder.glob(".*.tmp"):
        if re.fullmatch(r"\.[0-9a-f]{8}\.\d+\.tmp", left.name):
            _remove(left)


def refuse_existing(folder: Path) -> None:
    """Raise CheckpointError if `folder` exists: for commands, which overwrite nothing."""
    if folder.exists():
        raise CheckpointError(f"'{folder}' exists: give another folder with -o, or remove it")


def output_folder(text: str, option: str = "-o") -> Path:
    """The folder that an option names; it need not exist.

    Raises:
        OptionError: an empty name, a file, or a folder that cannot be written.
    """
    if not text:
        raise OptionError(f"{option} '': give a folder for the results")
    folder = Path(text)
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise OptionError(f"{option} {folder}: {existing} is a file; give a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OptionError(
            f"{option} {folder}: no permission to write in {existing}; give another folder"
        )
    return folder


def recover(place: str | Path) -> None:
    """Undo what a killed writer of `place` left: its temporary names, and where the file system
    cannot exchange, the old content under the name of its backup.
    """
    place = _in_place(place)
    backup = _backup(place)
    if backup.exists():
        if place.exists():
            _remove(backup)
        else:
            os.replace(backup, place)
    for left in place.parent.glob(f".{_key(place)}.*.tmp"):
        owner = left.name.split(".")[2]
        if owner.isdecimal() and not _alive(int(owner)):
            _remove(left)


def exchange(first: Path, second: Path) -> bool:
    """Let two paths change their names in one step; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return not rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE)


def _put(temporary: Path, folder: Path) -> None:
    """Give a finished folder its name; what was there is left under the temporary one."""
    if not folder.exists():
        os.replace(temporary, folder)
    elif not exchange(temporary, folder):
        backup = _backup(folder)
        os.replace(folder, backup)
        os.replace(temporary, folder)
        _remove(backup)
    _flush(folder.parent)


def _in_place(path: str | Path) -> Path:
    """A path whose folders are real ones; a link at its end stays one."""
    path = Path(path)
    return Path(os.path.realpath(path.parent)) / path.name


def _key(place: Path) -> str:
    """A short name of a path, so that no temporary one is too long for the file system."""
    return f"{zlib.crc32(os.fsencode(place.name)):08x}"


def _temporary(place: Path) -> Path:
    return place.with_name(f".{_key(place)}.{os.getpid()}.tmp")


def _backup(place: Path) -> Path:
    return place.with_name(f".{_key(place)}.old")


def _alive(process: int) -> bool:
    """Whether another process of this number runs here."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, and is somebody else's
        return True
    return True


def _flush_tree(folder: Path) -> None:
    """Modes of the umask, which the folder itself has, and everything on the disk."""
    mode = folder.stat().st_mode & 0o666
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)
        _flush(path)
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            path.unlink()


@contextmanager
def _told(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"'{place}' cannot be written ({error.strerror or error}{_room(place, error)}): free "
            "space on the disk, mend the rights, or name another place"
        ) from error


def _room(place: Path, error: OSError) -> str:
    """What is free, where that was too little."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ""
    existing = next(path for path in place.absolute().parents if path.is_dir())
    return f"; {shutil.disk_usage(existing).free / 2**20:.1f} MiB are free there"
