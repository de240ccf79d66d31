"""What to make of the pictures of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gdpo_sr.generators.prompts import prompts_behind
from gdpo_sr.pipelines.restorer import RestoreOptions
from gdpo_sr.restore.settings import Settings


@dataclass(frozen=True)
class FolderOptions:
    """What to make of every picture; see `gdpo-sr inference --help`.

    `captions` holds a caption for each source, or nothing; the prompt is put behind it. `settings`
    is what the manifest says about all of them.
    """

    restore: RestoreOptions
    folder: Path
    seed: int = 0
    scale: float = 4
    size: tuple[int, int] | None = None
    long_side: int | None = None
    candidates: int = 1
    choice: str = "first"
    uncertainty: bool = False
    bit_depth: int | None = None
    quality: int = 95
    strip: bool = False
    max_pixels: int | None = None
    captions: Mapping[Path, str] = field(default_factory=dict)
    settings: Settings = field(default_factory=dict)


def with_caption(options: FolderOptions, source: Path, saved_prompt: str) -> RestoreOptions:
    """The options of one group: all of its pictures have the same caption."""
    if source not in options.captions:
        return options.restore
    words = saved_prompt if options.restore.prompt is None else options.restore.prompt
    [prompt] = prompts_behind([options.captions[source]], words)
    return replace(options.restore, prompt=prompt)
