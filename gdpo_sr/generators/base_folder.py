"""Where a base model lies: the embedded `mini`, a folder in diffusers layout, the .safetensors file
of a whole model, or a hub id; or the first of several mirrors that can be had.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gdpo_sr.generators.single_file import config_folder, is_single_file
from gdpo_sr.generators.weight_files import has_weights
from gdpo_sr.types import CheckpointError

Base = str | Path | Sequence[str | Path]
"""One base, or mirrors of one base that are tried in turn."""

_ASSETS = Path(__file__).parent.parent / "assets"
EMBEDDED = {name: _ASSETS / name for name in ("mini", "mini-diffusion")}
_PARTS = {
    "unet": ("config.json",),
    "vae": ("config.json",),
    "text_encoder": ("config.json",),
    "tokenizer": ("tokenizer.json", "vocab.json"),
    "scheduler": ("scheduler_config.json",),
}
"""Folders of a base, each with the file that it must hold, or one of several."""
_NOT_FETCHED = ["*.bin", "*.msgpack", "*.fp16*", "*.non_ema*"]
_WEIGHT_FILES = (_NOT_FETCHED, ["*.bin", "*.msgpack", "*.non_ema*"], ["*.msgpack", "*.non_ema*"])
"""What is not fetched from the hub; the next is tried where a part is left without weights."""
_NETWORKS = ("unet", "vae", "text_encoder")


def mirrors(base: Base) -> list[str]:
    """The places that `base` names, in order.

    Raises:
        CheckpointError: there is none.
    """
    places = [base] if isinstance(base, (str, Path)) else base
    if not isinstance(places, Sequence) or isinstance(places, bytes):
        raise CheckpointError(f"base = {base!r}: name 'mini', a folder or a hub id")
    if not places or "" in places:
        kind = "an empty name" if places else "an empty list"
        raise CheckpointError(f"base is {kind}: name 'mini', a folder or a hub id")
    return [str(place) for place in places]


def base_folder(base: Base, revision: str | None = None) -> Path:
    """Folder or file of a base model; a hub id is fetched into the hub's cache.

    Of several mirrors the first that can be had is used; one that is complete on this disk counts
    as had without a connection.

    Raises:
        CheckpointError: the folder is incomplete, or no place is known or can be reached.
    """
    places = mirrors(base)
    if len(places) == 1:
        return _complete_folder(places[0], revision)
    problems = []
    for place in places:
        try:
            return _complete_folder(place, revision)
        except CheckpointError as error:
            problems.append(str(error))
    tried = ", ".join(f"'{place}'" for place in places)
    raise CheckpointError(
        f"none of the {len(places)} mirrors of the base can be had, tried {tried}: check the "
        f"connection, or add a local folder to the list (the last said: {problems[-1]})"
    )


def _complete_folder(base: str, revision: str | None) -> Path:
    place = EMBEDDED.get(base, Path(base))
    if not os.path.isdir(place) and not is_single_file(place):
        place = _fetch(base, revision)
    _require_parts(configs_of(place))
    return place


def configs_of(place: Path) -> Path:
    """Folder of configs and tokenizer of a base: itself, or where a file of weights has them.

    Raises:
        CheckpointError: a file has none.
    """
    return config_folder(place) if os.path.isfile(place) else place


def _require_parts(folder: Path) -> None:
    missing = [
        f"{part}/{' or '.join(files)}"
        for part, files in _PARTS.items()
        if not any((folder / part / file).is_file() for file in files)
    ]
    if missing:
        raise CheckpointError(
            f"base '{folder}' lacks {', '.join(missing)}: give a model saved in diffusers layout"
        )


def cached_base(hub_id: str, revision: str | None = None) -> Path | None:
    """Where the hub's cache has a complete base; None: it has not. Nothing is fetched."""
    if hub_id.count("/") != 1:
        return None
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
        _require_parts(folder)
    except (OSError, ValueError, CheckpointError):
        return None
    return folder if all(has_weights(folder / part) for part in _NETWORKS) else None


def _fetch(hub_id: str, revision: str | None) -> Path:
    looks_like_path = hub_id.count("/") != 1 or hub_id.startswith((".", "/", "~"))
    if looks_like_path:
        raise CheckpointError(
            f"base '{hub_id}' is no folder and no hub id: "
            "use 'mini', an existing folder or .safetensors file, or 'owner/name'"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = [f"{part}/*" for part in _PARTS] + ["model_index.json"]
    folder = ""
    try:
        for ignored in _WEIGHT_FILES:
            folder = snapshot_download(
                hub_id, revision=revision, allow_patterns=wanted, ignore_patterns=ignored
            )
            if all(has_weights(Path(folder) / part) for part in _NETWORKS):
                break
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            f"base '{hub_id}' is not on this disk and could not be fetched "
            f"({type(error).__name__}): check the id and the connection, "
            "or use 'mini' or a local folder"
        ) from error
    return Path(folder)


def part_folder(folder: str | Path, part: str) -> Path:
    """Folder of one part that replaces a base's: itself, or the parent of a folder called `part`.

    Raises:
        CheckpointError: there is no config.json in either.
    """
    for candidate in (Path(folder), Path(folder) / part):
        if (candidate / "config.json").is_file():
            return candidate
    raise CheckpointError(
        f"{part} '{folder}' holds no config.json, nor does '{folder}/{part}': give a folder in "
        "diffusers layout"
    )
