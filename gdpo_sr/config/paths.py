"""Folders of a run, as in BasicSR: <root>/<name>/{models,training_states,visualization,log}."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from gdpo_sr.types import OptionError
from gdpo_sr.writer import clean_leftovers, write_file


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

        An existing run that is not resumed is renamed, never overwritten. In one that is, nothing
        temporary is left of an earlier start. A folder that is no run is left alone.

        Returns:
            The folder that an existing run was renamed to, or None.

        Raises:
            OptionError: the folders cannot be made, or hold something else.
        """
        self._check_is_run()
        archived = None
        try:
            if not resume and self.folder.exists():
                archived = self._archive()
            for folder in (self.models, self.training_states, self.visualization, self.log):
                folder.mkdir(parents=True, exist_ok=True)
                clean_leftovers(folder)
            clean_leftovers(self.folder)
            write_file(self.options_file, options_yaml_text)
        except OSError as error:
            raise OptionError(
                f"{self.folder}: cannot be written: {error.strerror}; "
                "choose another path.experiments_root or name"
            ) from error
        return archived

    def _check_is_run(self) -> None:
        """Else a folder of photos of this name would be renamed."""
        known = (self.options_file, self.models, self.log)
        if self.folder.is_dir() and any(self.folder.iterdir()):
            if not any(place.exists() for place in known):
                raise OptionError(
                    f"{self.folder} exists and is no run; choose another name or "
                    "path.experiments_root"
                )

    def _archive(self) -> Path:
        stem = f"{self.name}_archived_{time.strftime('%Y%m%d_%H%M%S')}"
        target, count = self.folder.with_name(stem), 1
        while target.exists():
            target, count = self.folder.with_name(f"{stem}_{count}"), count + 1
        return self.folder.rename(target)
