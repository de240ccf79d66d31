"""Everything that makes a picture what it is, and which results were made by other settings."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gdpo_sr.checkpoints.lora import find_adapter
from gdpo_sr.generators.base_folder import base_folder, part_folder
from gdpo_sr.restore import manifest
from gdpo_sr.restore.plan import Job
from gdpo_sr.types import OptionError
from gdpo_sr.version import __version__

Settings = dict[str, Any]

_HASHED = 256_000_000  # bytes of a file up to which its content counts, else its time of change
_SAME_PICTURE = ("t_add", "prompt", "color_fix", "seed", "tile", "tile_overlap", "precision")
_SAME_PICTURE += ("candidates", "select", "mean", "uncertainty", "bit_depth", "quality", "strip")


def settings_of(args: argparse.Namespace) -> Settings:
    """What the pictures of one command have in common; equal settings give equal pictures.

    Raises:
        CheckpointError: no such base, part or LoRA.
    """
    folders = {"base": base_folder(args.base, args.revision)}
    if args.unet:
        folders["unet"] = part_folder(args.unet, "unet")
    if args.vae:
        folders["vae"] = part_folder(args.vae, "vae")
    if args.lora:
        folders["lora"] = find_adapter(args.lora)
    size = {"scale": args.scale, "size": args.size, "long_side": args.long_side}
    size = {key: value for key, value in size.items() if value is not None}
    size = size if len(size) == 1 else {k: v for k, v in size.items() if k != "scale"}
    models = {k: {"folder": str(v), "sha256": fingerprint(v)} for k, v in folders.items()}
    if args.lora:
        models["lora"]["scale"] = args.lora_scale
        models["lora"] |= {"pixel": args.pixel_scale, "semantic": args.semantic_scale}
    same = {key: getattr(args, key) for key in _SAME_PICTURE}
    return {"version": __version__, **models, **same, "size": size}


def fingerprint(place: Path) -> str:
    """A digest of a file, or of all files below a folder: names, sizes and contents (of very large
    files the time of change).
    """
    digest = hashlib.sha256()
    paths = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    for path in paths:
        status = path.stat()
        name = path.relative_to(place).as_posix()
        mark = file_digest(path) if status.st_size <= _HASHED else str(status.st_mtime_ns)
        digest.update(f"{name} {status.st_size} {mark}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def for_picture(settings: Settings, source: Path, caption: str | None) -> Settings:
    """The settings of one picture: the common ones, its content and its caption."""
    try:
        content = file_digest(source)
    except OSError:  # it vanished meanwhile
        content = None
    return {**settings, "input": content, "caption": caption}


@dataclass
class Standing:
    """What is there already.

    Attributes:
        todo: jobs without a result, or with one that is made again.
        kept: results that were made in the same way.
        unknown: results that no manifest knows.
        changed: results that were made by other settings, with the settings that differ.
    """

    todo: list[Job] = field(default_factory=list)
    kept: list[Job] = field(default_factory=list)
    unknown: list[Job] = field(default_factory=list)
    changed: dict[Job, list[str]] = field(default_factory=dict)


def standing(
    jobs: Sequence[Job], folder: Path, settings: Settings, captions: Mapping[Path, str]
) -> Standing:
    """Compare the results that exist with the manifest of their folder."""
    made_by = _made_by(folder)
    found = Standing()
    for job in jobs:
        before = made_by.get(place_of(job.target, folder))
        if not all(os.path.exists(path) for path in (job.target, job.heat_map) if path):
            found.todo.append(job)
        elif before is None:
            found.unknown.append(job)
        elif different := _differences(before, settings, job, captions.get(job.source)):
            found.changed[job] = different
            found.todo.append(job)
        else:
            found.kept.append(job)
    return found


def _made_by(folder: Path) -> dict[str, Settings]:
    """The settings of the latest picture under each place in the folder."""
    done = [r for r in manifest.read(folder) if r.get("status") == "done"]
    known = [r for r in done if isinstance(r.get("made_by"), dict)]
    return {str(record.get("place")): record["made_by"] for record in known}


def check_kinds(jobs: Sequence[Job], folder: Path) -> None:
    """Raise OptionError where a map would replace a result of an earlier command, or a result a
    map.
    """
    done = [r for r in manifest.read(folder) if r.get("status") == "done"]
    results, maps = ({str(record.get(key)) for record in done} for key in ("place", "map"))
    for job in jobs:
        for path, others, name in ((job.heat_map, results, "result"), (job.target, maps, "map")):
            if path and path.exists() and place_of(path, folder) in others:
                raise OptionError(
                    f"-o {folder}: {path} is the {name} of an earlier command and would be replaced"
                    "; give another folder"
                )


def place_of(target: Path, folder: Path) -> str:
    """Where a result lies in its folder, however the folder was named."""
    return target.relative_to(folder).as_posix()


def _differences(before: Settings, settings: Settings, job: Job, caption: str | None) -> list[str]:
    now = for_picture(settings, job.source, caption)
    now = json.loads(json.dumps(now))  # as the manifest gives it back
    keys = before.keys() | now.keys()
    return sorted(key for key in keys if _content(before.get(key)) != _content(now.get(key)))


def _content(value: Any) -> Any:
    """A setting without the place of its files: a model that was moved is the same model."""
    return {k: v for k, v in value.items() if k != "folder"} if isinstance(value, dict) else value
