"""Where results go: folders, picture files, and text that any terminal takes."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from gdpo_sr.types import OptionError


def write_whole(path: Path, content: bytes) -> None:
    """Write a picture file that appears complete or not at all; missing folders are made.

    Unlike `gdpo_sr.writer.write_file` it replaces a link and does not follow it, and it does not
    wait for the disk: a folder of results has thousands of files, and each can be made again. The
    temporary name does not hold the file's own, which may be as long as the file system allows.

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


def printable(text: str) -> str:
    """A text that any UTF-8 terminal takes: control characters and bytes of file names that are no
    UTF-8 become escapes.
    """
    kept = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    return kept.encode("utf-8", errors="backslashreplace").decode("utf-8")


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
