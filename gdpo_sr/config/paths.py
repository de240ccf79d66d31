"""Folders of a run, as in BasicSR: <root>/<name>/{models,training_states,visualization,log}."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdpo_sr.config.yaml_file import parse_yaml, read_yaml
from gdpo_sr.types import OptionError
from gdpo_sr.writer import write_file

_HARMLESS = ("train.total_iter", "logger.", "path.", "val.")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExperimentPaths:
    """Where one run is written.

    Attributes:
        root: folder of all runs.
        name: name of the run.
    """

    root: str | Path
    name: str

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.root) / self.name

    @property
    def models(self) -> Path:
        """Saved adapters."""
        return self.folder / "models"

    @property
    def training_states(self) -> Path:
        """Checkpoints of everything that a run needs to go on."""
        return self.folder / "training_states"

    @property
    def visualization(self) -> Path:
        """Validation pictures."""
        return self.folder / "visualization"

    @property
    def log(self) -> Path:
        """Log files and TensorBoard events."""
        return self.folder / "log"

    @property
    def options_file(self) -> Path:
        """Resolved options of the run."""
        return self.folder / "options.yml"

    def prepare(self, options_yaml_text: str, resume: bool) -> Path | None:
        """Make the folders and write the resolved options; call it in the main process only.

        An existing run that is not resumed is renamed, never overwritten. If a resumed run has
        other options than before, a warning names them.

        Returns:
            The folder that an existing run was renamed to, or None.

        Raises:
            OptionError: the folders cannot be made, or the old options cannot be read.
        """
        archived = None
        try:
            if resume and self.options_file.exists():
                self._warn_if_changed(options_yaml_text)
            elif not resume and self.folder.exists():
                archived = self._archive()
            for folder in (self.models, self.training_states, self.visualization, self.log):
                folder.mkdir(parents=True, exist_ok=True)
            write_file(self.options_file, options_yaml_text)
        except OSError as error:
            raise OptionError(
                f"{self.folder}: cannot be written: {error.strerror}; "
                "choose another path.experiments_root or name"
            ) from error
        return archived

    def _archive(self) -> Path:
        stem = f"{self.name}_archived_{time.strftime('%Y%m%d_%H%M%S')}"
        target, count = self.folder.with_name(stem), 1
        while target.exists():
            target, count = self.folder.with_name(f"{stem}_{count}"), count + 1
        return self.folder.rename(target)

    def _warn_if_changed(self, options_yaml_text: str) -> None:
        old = read_yaml(self.options_file)
        changed = changed_keys(old, parse_yaml(options_yaml_text, "options"))
        if changed:
            _log.warning(
                "%s is resumed with other options than it was started with: %s",
                self.folder,
                ", ".join(changed),
            )


def changed_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted keys that differ and matter for a run that goes on, in alphabetical order."""
    before, after = dict(_flatten(old)), dict(_flatten(new))
    missing = object()
    return sorted(
        key
        for key in before.keys() | after.keys()
        if before.get(key, missing) != after.get(key, missing) and not key.startswith(_HARMLESS)
    )


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
