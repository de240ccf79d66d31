"""Where a base model lies: the embedded `mini`, a folder in diffusers layout, or a hub id; or the
first of several mirrors that can be had.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
_NOT_FETCHED = ["*.bin", "*.msgpack", "*.fp16.*", "*.non_ema.*"]


def mirrors(base: Base) -> list[str]:
    """The places that `base` names, in order.

    Raises:
        CheckpointError: there is none.
    """
    places = [base] if isinstance(base, (str, Path)) else list(base)
    if not places:
        raise CheckpointError("base is an empty list: name 'mini', a folder or a hub id")
    return [str(place) for place in places]


def base_folder(base: Base, revision: str | None = None) -> Path:
    """Folder of a base model; a hub id is fetched into the hub's cache.

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
    folder = EMBEDDED.get(base, Path(base))
    if not folder.is_dir():
        folder = _fetch(base, revision)
    _require_parts(folder)
    return folder


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


def _fetch(hub_id: str, revision: str | None) -> Path:
    looks_like_path = hub_id.count("/") != 1 or hub_id.startswith((".", "/", "~"))
    if looks_like_path:
        raise CheckpointError(
            f"base '{hub_id}' is no folder and no hub id: "
            "use 'mini', an existing folder or 'owner/name'"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = [f"{part}/*" for part in _PARTS] + ["model_index.json"]
    try:
        folder = snapshot_download(
            hub_id, revision=revision, allow_patterns=wanted, ignore_patterns=_NOT_FETCHED
        )
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
