"""Files that appear whole or not at all, under temporary names of their own."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from gdpo_sr.types import OptionError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears complete or not at all; missing folders are made.

    The temporary name is short and does not hold the file's own, which may be as long as the file
    system allows. A link in its place is replaced, not followed.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{secrets.token_hex(4)}.tmp"
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 by `write_whole`; bytes of file names that are none become \\udc.., as in JSON.

    Raises:
        OptionError: the file cannot be written.
    """
    try:
        write_whole(path, text.encode("utf-8", errors="backslashreplace"))
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error}; choose another place") from error


def output_folder(text: str) -> Path:
    """The folder that `-o` names; it need not exist.

    Raises:
        OptionError: an empty name, a file, or a folder that cannot be written.
    """
    if not text:
        raise OptionError("-o '': give a folder for the results")
    folder = Path(text)
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise OptionError(f"-o {folder}: {existing} is a file; give a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OptionError(f"-o {folder}: no permission to write in {existing}; give another folder")
    return folder
